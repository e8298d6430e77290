"""The benchmark's own decisions: what counts, what is void, which way a ratio goes; one round on a real server."""

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pytest
from click.testing import CliRunner

from aioq.store.redis.cluster.topology import SLOTS, slot_of
from aioq.store.redis.keys import base_key
from benchmarks import catalogue, cluster, cluster_driver, history, idle, machine, plotting, sizes
from benchmarks import ledger as ledger_module
from benchmarks import stage as stages
from benchmarks.__main__ import PART, RESULTS, results_directory
from benchmarks.catalogue import LIBRARIES
from benchmarks.contract import Setup
from benchmarks.environments import ROOT, Environment
from benchmarks.ledger import POLL, VARIABLE, Ledger
from benchmarks.monitor import Seen, monitored
from benchmarks.plan import FEWEST, Plan
from benchmarks.report import environment_lines, ratios, report, table
from benchmarks.rounds import Record, Run, open_raw
from benchmarks.stage import Known, VoidError, stage
from benchmarks.summary import summarise
from benchmarks.workloads import draining
from benchmarks.workloads import table as workloads
from benchmarks.workloads.contract import Metric, Workload
from benchmarks.workloads.latency import percentiles
from tests.databases import Database
from tests.forkserver import Fork, can_fork
from tests.servers import available

pytestmark = pytest.mark.long(seconds=20)

HERE = Environment(Path(sys.executable), {"aioq": "0"})
SERVER = available()[0]
SMALL = Plan(rounds=1, scale=0.01, seconds=1, server=SERVER)

FAST = Workload("fast", "Fast", lambda _: {}, (Metric("per_second", "jobs/s", "higher", ("bare",)),))
SLOW = Workload("slow", "Slow", lambda _: {}, (Metric("ms", "ms", "lower", digits=1),))


@pytest.fixture(autouse=True)
def _forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drivers and workers, of which a benchmark starts dozens, are forked."""
    start = stages.start

    def fork(command: Sequence[str], environ: Mapping[str, str], output: IO[bytes]) -> Any:
        if can_fork(command, environ):
            return Fork(command, ROOT, environ, output.fileno(), output.fileno())
        return start(command, environ, output)

    monkeypatch.setattr(stages, "start", fork)


def _records(workload: Workload, **values: list[float]) -> list[Record]:
    key = workload.metrics[0].key
    return [
        Record(number, workload.key, library, {key: value})
        for library, found in values.items()
        for number, value in enumerate(found, 1)
    ]


def test_a_ledger_tells_jobs_that_ran_never_once_and_twice(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger", 4) as ledger:
        assert ledger.count() == (4, 0, 4)
        with ledger.path.open("r+b") as file:
            file.write(b"\x01\x01\x02")
        count = ledger.count()
        assert (count.once, count.never, count.more) == (2, 1, 1)
        assert ledger.wait(3, 0) is not None
        assert ledger.wait(4, 0) is None


Pace = Callable[[float], float]
"""How many jobs have run by a time."""


class _Clock:
    """Stands for `time`: while somebody sleeps, jobs run at a pace, in a file that a ledger watches."""

    def __init__(self, path: Path, pace: Pace) -> None:
        self._path = path
        self._pace = pace
        self._now = 0.0
        self.looks = 0

    def perf_counter(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self.looks += 1
        self._now += seconds
        with self._path.open("r+b") as file:
            file.write(b"\x01" * min(int(self._pace(self._now)), self._path.stat().st_size))


@pytest.mark.parametrize(
    ("jobs", "pace", "end"),
    [
        pytest.param(1_000_000, lambda now: now * 25_000, 40.0, id="large"),
        pytest.param(100_000, lambda now: now * 20_000, 5.0, id="middling"),
        pytest.param(20_000, lambda now: now * 50_000, 0.4, id="steady"),
        pytest.param(1_000, lambda now: now * 1_000, 1.0, id="slow"),
        pytest.param(20_000, lambda now: 10 + max(0, now - 0.1) * 50_000, 0.4998, id="stalls after ten"),
        pytest.param(6_000, lambda now: now * 100 + max(0, now - 0.3) * 19_900, 0.5985, id="starts slowly"),
        pytest.param(4_000, lambda now: 2 + max(0, now - 0.05) * 8_000, 0.54975, id="a peer's start"),
    ],
)
def test_a_ledger_is_looked_at_in_time_and_for_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int, pace: Pace, end: float
) -> None:
    with Ledger(tmp_path / "ledger", jobs) as ledger:
        clock = _Clock(ledger.path, pace)
        monkeypatch.setattr(ledger_module, "time", clock)
        head = ledger.wait(jobs // 10, 60)
        seen = ledger.wait(jobs, 60)
    assert head is not None
    assert seen is not None
    assert pace(head - 0.01 * end) <= jobs // 10 <= pace(head)
    assert end - 0.0001 <= seen <= end + POLL + 0.001
    assert clock.looks * jobs * 1.5e-9 <= 0.02 * end


def test_a_ratio_above_one_is_better_whichever_direction_is() -> None:
    fast = summarise(FAST, _records(FAST, bare=[400.0], aioq=[100.0, 300.0, 200.0], arq=[50.0], saq=[100.0]))
    assert [tuple(each) for each in fast.ratios["per_second"]] == [("saq", 2.0), ("bare", 0.5)]
    slow = summarise(SLOW, _records(SLOW, aioq=[2.0], arq=[8.0], saq=[4.0]))
    assert [tuple(each) for each in slow.ratios["ms"]] == [("saq", 2.0)]


def test_a_ratio_of_its_own_is_printed_and_put_beside_nobodys() -> None:
    own = Workload("own", "Own", lambda _: {}, (Metric("share", "to small", "lower", digits=2, alone=True),))
    summary = summarise(own, _records(own, aioq=[1.04], arq=[0.5]))
    assert "| own | to small | 1.04 | - | - |" in ratios([summary]).splitlines()
    assert "arq" not in ratios([summary])


@pytest.mark.parametrize(
    ("rates", "concurrency", "jobs"),
    [
        pytest.param((None, None), 100, 20_000, id="unknown"),
        pytest.param((1e6, 1e6), 100, 20_000, id="fast"),
        pytest.param((3_000.0, 1e6), 100, 3_000, id="what it drains in a second"),
        pytest.param((3_000.0, 600.0), 100, 2_400, id="what it enqueues in four"),
        pytest.param((300.0, 1e6), 1_000, 2_000, id="twice what runs at once"),
    ],
)
def test_a_drain_has_as_many_jobs_as_fit_and_as_keep_the_worker_at_work(
    rates: tuple[float | None, float | None], concurrency: int, jobs: int
) -> None:
    assert draining.size(Plan(seconds=1.0), *rates, concurrency) == jobs


def test_a_void_round_counts_for_nothing_and_is_reported() -> None:
    records = [*_records(FAST, aioq=[100.0], arq=[50.0]), Record(2, "fast", "arq", {}, "2 of 9 did not run")]
    records.append(Record(1, "fast", "saq", {}, "no job ran"))
    summary = summarise(FAST, records)
    assert summary.rows[1].values["per_second"].rounds == 1
    text = report({"versions": {}}, [summary], {"celery": "cannot be installed: no wheel"})
    assert "arq: 1 void, the last because 2 of 9 did not run" in text
    assert "| SAQ | - |" in text
    assert "Celery: cannot be installed: no wheel" in text
    assert "| fast | jobs/s | 100 | arq | 2.00 |" in text


def test_without_the_subject_there_are_no_ratios() -> None:
    summary = summarise(FAST, _records(FAST, arq=[50.0]))
    assert summary.ratios == {"per_second": ()}
    assert ratios([summary]).count("\n") == 1
    assert "| arq | 50 |" in table(summary)


def test_a_table_is_in_the_order_of_what_is_better() -> None:
    slow = summarise(SLOW, _records(SLOW, aioq=[2.0], arq=[1.0], saq=[4.0, 5.0]))
    lines = table(slow).splitlines()[2:]
    assert lines == ["| arq | 1.0 |", "| aioq | 2.0 |", "| SAQ | 4.5 (4.0 to 5.0) |"]


@pytest.mark.parametrize(("rate", "jobs"), [(None, 20_000), (1e9, 20_000), (100.0, 500), (0.1, FEWEST)], ids=str)
def test_a_slow_library_gets_fewer_jobs(rate: float | None, jobs: int) -> None:
    assert Plan(seconds=5).fitting(20_000, rate) == jobs


def test_the_best_peer_is_neither_aioq_nor_a_bare_loop() -> None:
    known = Known(drain={"aioq": 9.0, "bare": 99.0, "arq": 1.0, "saq": 2.0}, peers=frozenset({"arq", "saq"}))
    assert known.best_peer == 2.0
    assert Known().best_peer is None


def test_commands_are_distinguished_by_who_sent_them() -> None:
    seen = Seen()
    for line in (
        b'+1.2 [0 127.0.0.1:9] "evalsha" "lua]"\r\n',
        b'+1.2 [0 lua] "hset" "[0 1:2]"\r\n',
        b'+1.2 [3 unix:/tmp/s] "ping"\r\n',
        b"+OK\r\n",
    ):
        seen.feed(line)
    assert (seen.by_clients, seen.by_scripts) == (2, 1)


def test_monitoring_sees_what_is_sent_meanwhile(redis_server: Database) -> None:
    with redis_server.client() as client:
        client.ping()  # the handshake comes before
        with monitored(redis_server.server) as seen:
            client.eval("redis.call('PING') return 1", 0)
        client.ping()
    assert (seen.by_clients, seen.by_scripts) == (1, 1)


def test_percentiles_are_in_milliseconds() -> None:
    found = percentiles([number / 1000 for number in range(1, 101)])
    assert found["p50_ms"] == pytest.approx(50.5)
    assert found["p99_ms"] == pytest.approx(99.01)
    with pytest.raises(VoidError, match="no job was answered"):
        percentiles([])


def test_every_library_has_its_adapter_and_its_requirements() -> None:
    root = Path(catalogue.__file__).parent
    for library in LIBRARIES.values():
        assert (root.parent / library.module.replace(".", "/")).with_suffix(".py").is_file()
        lines = (root / "requirements" / f"{library.environment}.txt").read_text().splitlines()
        assert all("==" in line for line in lines if not line.startswith("#"))


def test_unknown_names_are_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="no such peer: huey; there are: arq, saq"):
        catalogue.chosen(("arq", "huey"))
    with pytest.raises(ValueError, match="no such workload: swim; there are: bulk"):
        workloads.chosen(("swim",))
    assert [each.key for each in workloads.chosen(workloads.QUICK)] == [*workloads.QUICK]


def test_the_setup_reaches_a_worker_through_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup("redis://127.0.0.1:1", 7)
    for name, value in setup.environ().items():
        monkeypatch.setenv(name, value)
    assert Setup.read() == setup


def test_the_raw_results_are_what_is_plotted(tmp_path: Path) -> None:
    path = tmp_path / "raw.jsonl"
    with open_raw(path, {"cpu": "a"}) as file:
        for record in _records(workloads.chosen(("bulk",))[0], aioq=[1.0, 3.0, 2.0], arq=[1.0]):
            print(json.dumps(record.as_json()), file=file)
        print(json.dumps(Record(1, "bulk", "saq", {}, "void").as_json()), file=file)
    assert plotting.read(path) == {"bulk": {"aioq": 2.0, "arq": 1.0}}


def test_the_report_names_the_whole_environment() -> None:
    lines = environment_lines(machine.describe(SMALL, {"aioq": HERE}, sys.executable)).splitlines()
    shown = dict(line.removeprefix("- ").split(": ", 1) for line in lines)
    assert shown["versions"] == "aioq 0"
    assert shown["python"].startswith(f"Python {sys.version.split()[0]}")
    assert re.fullmatch(rf"{re.escape(SERVER)} \(\d+\.\d+\.\d+\)", shown["server"])
    assert shown["persistence"].startswith("off")
    assert shown["cpu"]


def test_a_part_does_not_take_the_place_of_the_whole() -> None:
    assert results_directory(tuple(catalogue.PEERS), ()) == RESULTS
    assert results_directory(("arq", "saq"), ()) == PART != RESULTS
    assert results_directory(tuple(catalogue.PEERS), ("bulk",)) == PART


def test_one_round_of_aioq_on_a_real_server() -> None:
    """The whole way: driver, worker process, ledger, results, on a fresh server for each measurement."""
    chosen = workloads.chosen(("bulk", "drain", "commands"))
    run = Run(SMALL, [LIBRARIES["aioq"]], {"aioq": HERE}, chosen, {})
    run.carry_out()
    assert run.missing == {}
    assert [record.void for record in run.records] == ["", "", ""]
    bulk, drain, commands = (record.figures for record in run.records)
    assert bulk["per_second"] > 0
    assert drain["jobs"] == SMALL.scaled(draining.DRAIN)
    assert 0 < commands["by_clients"] < 1 < commands["in_all"]


def test_a_job_that_runs_twice_makes_a_round_void(tmp_path: Path) -> None:
    with stage(LIBRARIES["bare"], HERE, SMALL, Known()) as ready, Ledger(tmp_path / "ledger", 3) as ledger:
        ledger.path.write_bytes(b"\x01\x02\x01")
        with pytest.raises(VoidError, match="of 3 jobs 0 did not run and 1 ran more than once"):
            draining.check(ready, ledger)


def test_a_library_that_does_not_start_is_listed_with_the_reason() -> None:
    run = Run(SMALL, [LIBRARIES["arq"]], {"arq": HERE}, workloads.chosen(("bulk",)), {})
    run.carry_out()
    assert run.libraries == []
    assert "No module named 'arq'" in run.missing["arq"]


def test_a_worker_marks_what_it_runs_in_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Ledger(tmp_path / "ledger", 2) as ledger:
        monkeypatch.setenv(VARIABLE, str(ledger.path))
        monkeypatch.delitem(sys.modules, "benchmarks.ledger")
        __import__("benchmarks.ledger")
        sys.modules["benchmarks.ledger"].mark(1)
        sys.modules["benchmarks.ledger"]._runs.close()
        assert ledger.count() == (2, 1, 1)


def test_idle_workers_are_counted() -> None:
    sizes = ["--workers", "2", "--queues", "3", "--processes", "1", "--settle", "0", "--seconds", "0.5"]
    done = CliRunner().invoke(idle.main, ["count", *sizes, "--server", SERVER], catch_exceptions=False)

    assert re.search(r"^2 workers, 3 queues each: \d+ connections; \d+ commands/s of clients, ", done.output)


@pytest.mark.timeout(240)  # a dozen processes, one after the other
def test_three_nodes_are_measured() -> None:
    figures = cluster.measure("three", SERVER, 400)  # fewer may take less than a tick of CPU time
    assert figures.keys() == cluster.SHOWN.keys()
    assert all(value > 0 for value in figures.values())
    assert figures["bulk_commands"] < 1 < figures["alone_commands"] < 10


@pytest.mark.timeout(240)  # four processes, one after the other
@pytest.mark.parametrize("kind", history.KINDS)
def test_what_a_history_costs_is_measured(kind: str) -> None:
    figures = history.measure(kind, SERVER, 400)
    assert figures.keys() == history.SHOWN.keys()
    assert min(figures["bulk_seconds"], figures["drain_seconds"]) > 0


def test_a_speed_is_a_part_of_the_other() -> None:
    found = {
        kind: [dict.fromkeys(history.SHOWN, value) for value in values]
        for kind, values in (("without", (1.0, 2.0, 3.0)), ("with", (2.0, 2.0, 4.0)))
    }
    assert history.rows(found)[2].endswith("| 2.00 | 2.00 | 0.750 (0.500 to 1.000) |")


def test_the_queues_of_the_comparison_are_spread_evenly() -> None:
    names = cluster_driver.spread(3, 2)
    nodes = [slot_of(base_key(cluster_driver.APP, name)) * 3 // SLOTS for name in names]
    assert nodes == [0, 1, 2, 0, 1, 2]


def test_a_ratio_of_rounds_is_given_with_its_spread() -> None:
    one = [dict.fromkeys(cluster.SHOWN, value) for value in (1.0, 2.0, 4.0)]
    three = [dict.fromkeys(cluster.SHOWN, value) for value in (1.5, 2.0, 5.0)]
    shown = cluster.rows({"one": one, "three": three})[2]
    assert shown.endswith("| 2.0000 | 2.0000 | 1.25 (1.00 to 1.50) |")


@pytest.mark.timeout(240)  # nine workers, one after the other
def test_sizes_are_measured() -> None:
    arguments = ["--rounds", "1", "--jobs", "1000", "--server", SERVER]
    done = CliRunner().invoke(sizes.main, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    waiting, large = (
        re.search(rf"^\| a waiting job with an argument of {size} bytes \| ([\d,]+)", done.output, re.MULTILINE)
        for size in ("80", "10,000")
    )
    assert waiting is not None
    assert large is not None
    assert 100 < int(waiting[1]) < 1_000 < int(large[1].replace(",", ""))
    assert len(re.findall(r"^\| .* \([\d.]+ to [\d.]+\) \|$", done.output, re.MULTILINE)) == 3, done.output
