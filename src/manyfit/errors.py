"""The errors that mean something to a search; `manyfit.core.errors` has the others."""

from manyfit.core.errors import FailedTrialError as FailedTrialError
from manyfit.core.errors import FatalError as FatalError
from manyfit.core.errors import FatalRuntimeError as FatalRuntimeError
from manyfit.core.errors import FatalTypeError as FatalTypeError
from manyfit.core.errors import FatalValueError as FatalValueError
