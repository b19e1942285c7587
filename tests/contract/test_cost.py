"""docs/cost.md calculates rightly, and from what Terraform makes."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.contract

REPOSITORY = Path(__file__).parents[2]
COST = (REPOSITORY / "docs/cost.md").read_text(encoding="utf-8")
PROD = (REPOSITORY / "terraform/environments/prod.tfvars").read_text(encoding="utf-8")
SERVICES = (REPOSITORY / "terraform/services.tf").read_text(encoding="utf-8")
HOURS = 730
ROW = re.compile(r"^\| ([^|*]+) \| ([^|]*) \| ([\d.,]+) \| ([\d.]+) \| ([\d.,]+) \|$", re.MULTILINE)
TOGETHER = re.compile(r"^\| \*\*together\*\* \|[ |]*\| \*\*([\d.,]+)\*\* \|$", re.MULTILINE)
VOLUME = re.compile(
    r"^\| ([\d,]+) \| ([\d.,]+) \| ([\d.,]+) \| ([\d.,]+) \| \*\*([\d.,]+)\*\* \|$", re.MULTILINE
)


def number(text):
    return float(text.replace(",", ""))


def setting(name):
    return re.search(rf'^ *{name} += "?([\w-]+)"?', PROD, re.MULTILINE)[1]


def instances(process):
    return int(re.search(rf"^  {process} += {{ min = (\d+)", PROD, re.MULTILINE)[1])


def always_compute(service):
    block = re.search(rf"^    {service} = {{\n(.*?)^    }}", SERVICES, re.MULTILINE | re.DOTALL)[1]
    assert re.search(r'^ +cpu += "1"$', block, re.MULTILINE), service
    assert re.search(r'^ +memory += "512Mi"$', block, re.MULTILINE), service
    return re.search(r"^ +cpu_idle += (\w+)$", block, re.MULTILINE)[1] == "false"


@pytest.fixture(scope="module")
def tables():
    """What is fixed, what goes by use: {what: (how, units, dollars each, dollars)}, and each one's sum."""
    parts = COST.split("## ")
    found = []
    for title in ("Whatever comes", "By use"):
        [part] = [each for each in parts if each.startswith(title)]
        rows = {what: (how, *map(number, rest)) for what, how, *rest in ROW.findall(part)}
        found.append((rows, number(TOGETHER.search(part)[1])))
    return found


def test_every_line_and_every_sum_is_right(tables):
    for rows, together in tables:
        assert len(rows) >= 10
        for what, (_how, units, price, dollars) in rows.items():
            assert dollars == pytest.approx(units * price, abs=0.011, rel=0.002), what
        assert together == pytest.approx(sum(dollars for *_, dollars in rows.values()), abs=0.011)


def test_the_price_of_a_million_follows(tables):
    (_, fixed), (_, by_use) = tables
    volumes = [tuple(map(number, row)) for row in VOLUME.findall(COST)]
    assert [payments for payments, *_ in volumes] == [1e6, 1e7, 1e8, 1e9]
    for payments, *rest in volumes:
        millions = payments / 1e6
        used = by_use * millions
        expected = [fixed, used, fixed + used, fixed / millions + by_use]
        assert rest == pytest.approx(expected, abs=0.011)
    # what is expected has room in the budget
    assert volumes[0][3] < int(setting("units"))


def test_what_is_fixed_is_what_terraform_makes(tables):
    (rows, _), _ = tables
    processors, memory_mib = map(int, re.fullmatch(r"db-custom-(\d+)-(\d+)", setting("tier")).groups())
    zones = {"REGIONAL": 2, "ZONAL": 1}[setting("availability_type")]
    computing = [service for service in ("gateway", "webhooks", "backoffice") if always_compute(service)]
    at_least = sum(map(instances, computing)) + instances("dispatcher")
    seconds = HOURS * 3600
    expected = {
        "Cloud SQL: processors": processors * zones * HOURS,
        "Cloud SQL: memory": memory_mib / 1024 * zones * HOURS,
        "Cloud SQL: disk": int(setting("disk_size_gb")) * zones,
        "Cloud Run: processors that always compute": at_least * seconds,
        "Cloud Run: their memory": at_least * 0.5 * seconds,
        "Cloud Run: one idle adapter, processor and memory": instances("sap_adapter") * 1.5 * seconds,
        f"Memorystore: {setting('node_type')}": (1 + int(setting("replica_count"))) * HOURS,
    }
    assert {what: rows[what][1] for what in expected} == expected
    assert not any(map(always_compute, ("sap_adapter", "dead_letters", "partners")))
    assert instances("dead_letters") == instances("partners") == 0


def test_what_the_text_says_of_terraform_is_so():
    text = " ".join(COST.split())
    assert f"Backups are kept for {setting('backups')} days" in text
    assert f"point-in-time logs for {setting('transaction_log_days')}." in text
    assert f"the lane: {setting('s4-main')} calls at once" in text
    assert f"the {setting('disk_size_gb')} GiB grow by themselves" in text
    most = re.search(r"^  webhooks += \{ min = \d+, max = (\d+)", PROD, re.MULTILINE)[1]
    assert f"of the {most} that `scaling.webhooks` allows" in text


def test_what_was_counted_is_what_is_charged(tables):
    _, (rows, _) = tables
    counted = dict(re.findall(r"^\| ([^|]+) \| ([\d.,]+) \|$", COST, re.MULTILINE))
    gib = 2**30 / 1e6
    stored, wal = number(counted["bytes of tables and indexes"]), number(counted["WAL bytes"])
    messages = number(counted["messages in Pub/Sub, of 360 bytes each"])
    expected = {
        # in and out, 1,000 bytes at least
        "Pub/Sub": messages * 2 * 1000 * 1e6 / 2**40,
        "Cloud Tasks": 2 * number(counted["tasks in Cloud Tasks, and attempts of webhooks"]),
        "Cloud Logging: our lines": number(counted["their bytes"]) / gib,
        "disk for as long as it is kept, each month": 2 * stored / gib,
        "backups and seven days of WAL, each month": (stored + wal * 7 / 30) / gib,
    }
    assert {what: rows[what][1] for what in expected} == pytest.approx(expected, rel=0.001)


def test_a_copy_in_another_region_costs_what_the_database_costs_in_one_zone(tables):
    (rows, _), _ = tables
    parts = ("Cloud SQL: processors", "Cloud SQL: memory", "Cloud SQL: disk")
    one_zone = sum(rows[what][3] for what in parts) / 2
    stated = re.search(r"are ([\d.]+)\s+dollars a month, and what leaves", COST)[1]
    assert number(stated) == pytest.approx(one_zone, abs=0.02)
