"""KerasTuner's chief and workers: recognised, and answered with what takes their place."""

from __future__ import annotations

import os
from typing import Any, NoReturn

from manyfit.core.environment import refuse_chief_and_workers


def has_chief_oracle() -> bool:
    """Whether KerasTuner's environment variables name a chief."""
    return "KERASTUNER_ORACLE_IP" in os.environ


def is_chief_oracle() -> bool:
    """Whether they say that this process is the chief."""
    return has_chief_oracle() and "chief" in os.environ.get("KERASTUNER_TUNER_ID", "")


def start_server(oracle: Any) -> NoReturn:
    """KerasTuner's chief served its oracle to workers.

    Raises:
        UsageError: always; it says what to write instead.
    """
    del oracle
    refuse_chief_and_workers("start_server", always=True)
    raise AssertionError


def exit_chief(oracle: Any) -> bool:
    """Whether a chief may end: no trial is running."""
    return not oracle.ongoing_trials


class OracleClient:
    """KerasTuner's worker-side oracle.

    Raises:
        UsageError: always; it says what to write instead.
    """

    def __init__(self, oracle: Any) -> None:
        del oracle
        refuse_chief_and_workers("OracleClient", always=True)


def get_proto() -> NoReturn:
    """KerasTuner's messages between chief and workers.

    Raises:
        UsageError: always; it says what to write instead.
    """
    refuse_chief_and_workers("protos", always=True)
    raise AssertionError


get_service = get_service_grpc = get_proto
