"""Beyond one machine: GNU parallel deals the records of one input out to one `lm` for each server."""

import json
from pathlib import Path

from conftest import Serve
from processes import environment, run
from shells import program

COUNT = 200
SERVERS = "parallel --will-cite --pipe --roundrobin -N 10 -j 2"


def write_jobs(folder: Path) -> None:
    """Records with ids, by which they are found again."""
    jobs = [{"id": number, "prompt": f'number {number} 🦉 \'and "more"'} for number in range(COUNT)]
    (folder / "jobs.jsonl").write_text("".join(json.dumps(job) + "\n" for job in jobs))


def answers(stdout: bytes) -> list[tuple[int, str]]:
    """Id and answer of each result, in the order of the ids."""
    results = [json.loads(line) for line in stdout.splitlines()]
    return sorted((result["id"], result["content"]) for result in results)


def test_two_servers_answer_one_input(tmp_path: Path, serve: Serve) -> None:
    """All records are answered, once, on both servers; sorted by id it is what a single run gives."""
    program("parallel")
    hosts = [serve().address, serve().address]
    write_jobs(tmp_path)
    (tmp_path / "hosts").write_text("".join(f"{host}\n" for host in hosts))
    variables = environment(tmp_path, hosts[0])
    single = run("lm respond --each jsonl -o jsonl < jobs.jsonl", tmp_path, variables)
    # The slot of a job, 1 or 2, is the line of its server.
    job = "lm respond -H $(sed -n {%}p hosts) --each jsonl -o jsonl --stats-file {%}.log"
    ran = run(f"{SERVERS} --joblog jobs.log '{job}' < jobs.jsonl", tmp_path, variables)
    assert (single.status, ran.status, ran.stderr) == (0, 0, "")
    assert answers(ran.stdout) == answers(single.stdout)
    assert [name for name, _ in answers(ran.stdout)] == list(range(COUNT))
    shares = [len((tmp_path / f"{slot}.log").read_text().splitlines()) for slot in (1, 2)]
    assert sum(shares) == COUNT
    assert min(shares) > 0
    assert len((tmp_path / "jobs.log").read_text().splitlines()) == 1 + 2  # its head, and one line for each job


def test_a_server_that_was_missing_is_made_up_for(tmp_path: Path, serve: Serve) -> None:
    """The exit status says that records are missing; with a results file for each part a second run adds those."""
    program("parallel")
    host = serve().address
    write_jobs(tmp_path)
    (tmp_path / "hosts").write_text(f"{host}\n127.0.0.1:1\n")
    variables = environment(tmp_path, host)
    parts = "split -l 100 jobs.jsonl part. && parallel --will-cite -j 2 -k"
    job = "lm respond -H $(sed -n {#}p hosts) --each jsonl -o jsonl --results {}.done < {}"
    ran = run(f"{parts} '{job}' ::: part.aa part.ab", tmp_path, variables)
    assert ran.status == 1  # how many jobs failed
    assert [name for name, _ in answers(ran.stdout)] == list(range(100))
    assert "lm: error: cannot reach LM Studio at 127.0.0.1:1" in ran.stderr
    (tmp_path / "hosts").write_text(f"127.0.0.1:1\n{host}\n")
    ran = run(f"{parts} '{job}' ::: part.aa part.ab", tmp_path, variables)
    assert (ran.status, ran.stderr) == (0, "")
    assert [name for name, _ in answers(ran.stdout)] == list(range(COUNT))
