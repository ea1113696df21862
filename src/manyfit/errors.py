"""The errors: those that mean something to a search, as KerasTuner has them, and those that a call may raise."""

from manyfit.core.errors import FailedTrialError as FailedTrialError
from manyfit.core.errors import FatalError as FatalError
from manyfit.core.errors import FatalRuntimeError as FatalRuntimeError
from manyfit.core.errors import FatalTypeError as FatalTypeError
from manyfit.core.errors import FatalValueError as FatalValueError
from manyfit.core.errors import ManyfitError as ManyfitError
from manyfit.core.errors import ProjectError as ProjectError
from manyfit.core.errors import SearchError as SearchError
from manyfit.core.errors import UsageError as UsageError
