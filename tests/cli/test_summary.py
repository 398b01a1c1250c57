"""The work of summing up recorded predictions, counted in calls."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from lmcli.cli.choices import ReportForm
from lmcli.cli.environment import Environment
from lmcli.cli.messages import Messages
from lmcli.cli.options import StatsOptions
from lmcli.cli.summary import summarise


def calls_for(groups: int, form: str, tmp_path: Path, *, is_terminal: bool) -> int:
    """How many functions are called to sum up a file with so many models."""
    file = tmp_path / f"{groups}.jsonl"
    stats = {"stop_reason": "eosFound", "tokens_per_second": 1.0, "time_to_first_token_sec": 2.0}
    lines = [json.dumps({"model": {"model_key": f"m{i:06}"}, "stats": stats}) + "\n" for i in range(groups)]
    file.write_text("".join(lines))
    count = 0

    def counted(_: Any, event: str, __: Any) -> None:
        nonlocal count
        count += event.endswith("call")

    with Path(os.devnull).open("wb") as sink:
        env = Environment.of_process()._replace(stdout=sink.fileno(), stdout_is_terminal=is_terminal)
        options = StatsOptions(output=ReportForm(form))
        sys.setprofile(counted)
        try:
            summarise(options, [str(file)], env, Messages(env))
        finally:
            sys.setprofile(None)
    return count


@pytest.mark.parametrize(("form", "is_terminal"), [("text", False), ("text", True), ("csv", False), ("json", False)])
def test_the_work_grows_with_the_number_of_groups_and_no_faster(
    form: str, tmp_path: Path, *, is_terminal: bool
) -> None:
    """Twice as many groups take at most twice the calls."""
    few, many = (calls_for(groups, form, tmp_path, is_terminal=is_terminal) for groups in (200, 400))
    assert many <= 2 * few
