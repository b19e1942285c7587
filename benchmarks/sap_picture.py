"""The picture of an outage: backlog, window and rate over time, as SVG."""

from itertools import pairwise
from pathlib import Path

from benchmarks.outage import Outage, Sample

SMOOTHED_SAMPLES = 4


def draw(outage: Outage, path: Path) -> None:
    """Write the picture; matplotlib is in the group `bench` only."""
    import matplotlib as mpl  # noqa: PLC0415 - the group `bench` is installed by its targets only

    mpl.use("svg")
    # the same samples, the same file; texts as texts
    mpl.rcParams.update({"svg.hashsalt": "outage", "svg.fonttype": "none"})
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the backend is chosen

    figure, (backlog, window, rate) = plt.subplots(3, 1, sharex=True, figsize=(9, 7))
    seconds = [sample.seconds for sample in outage.samples]
    backlog.plot(seconds, [sample.backlog for sample in outage.samples], color="tab:blue")
    backlog.set_ylabel("backlog\n(payments)")
    window.step(seconds, [sample.call_window for sample in outage.samples], where="post", color="tab:orange")
    window.set_ylabel("window\n(calls at once)")
    window.set_ylim(bottom=0)
    times, rates = _rates(outage.samples)
    rate.plot(times, rates, color="tab:green", label="posted")
    rate.axhline(outage.capacity, color="grey", linestyle=":", label="what SAP takes from direct callers")
    rate.set_ylabel("posted\n(per second)")
    rate.set_xlabel("seconds since SAP went down")
    rate.legend(loc="lower right")
    for axis in (backlog, window, rate):
        axis.axvspan(0, outage.outage_seconds, color="tab:red", alpha=0.12)
        axis.grid(alpha=0.3)
    figure.suptitle("SAP away, and back")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def _rates(samples: list[Sample]) -> tuple[list[float], list[float]]:
    """Documents per second between samples a little apart."""
    chosen = samples[::SMOOTHED_SAMPLES]
    pairs = list(pairwise(chosen))
    times = [after.seconds for _, after in pairs]
    return times, [
        (after.documents - before.documents) / (after.seconds - before.seconds) for before, after in pairs
    ]
