from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from infra.pki import Authority, Leaf
from infra.plan import Environment, ReadyKind, UnitSpec, plan
from infra.substrates.placeholders import Places, Rendition, render
from infra.tools.paths import ToolMissing, tool_path
from infra.topology import Fleet, HostRole, HostSpec
from infra.units import START_ORDER, units_for

TWO = Fleet(
    name="two",
    hosts=(
        HostSpec(name="mainpc"),
        HostSpec(name="pc2"),
        HostSpec(name="witness", role=HostRole.WITNESS),
    ),
    agents=(),
)
ONE = Fleet(name="one", hosts=(HostSpec(name="solo"),), agents=())
ADDRESSES = {"mainpc": "10.77.1.11", "pc2": "10.77.1.12", "witness": "10.77.1.13", "solo": "10.77.1.11"}


def environment(chaos: bool = True) -> Environment:
    return Environment(stack="t", chaos=chaos, fleet="/fleet.yaml", state_dir="/state")


def units(host: str, fleet: Fleet = TWO, chaos: bool = True) -> dict[str, UnitSpec]:
    return {unit.name: unit for unit in units_for(fleet.host(host), fleet, environment(chaos))}


def rendered(unit: UnitSpec, folder: Path) -> Rendition:
    places = Places(
        data=str(folder / "data"),
        config=str(folder / "config"),
        run=str(folder / "run"),
        pki=str(folder / "pki"),
        address=ADDRESSES[unit.host],
        local="127.0.0.1",
        address_of=ADDRESSES.__getitem__,
    )
    rendition = render(unit, places)
    for name, content in rendition.files.items():
        path = folder / "config" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return rendition


def tool(name: str) -> str:
    try:
        return str(tool_path(name))
    except ToolMissing:
        pytest.skip(f"{name} is not set up")


@pytest.mark.parametrize(
    ("host", "chaos", "names"),
    [
        ("witness", True, ["etcd"]),
        ("mainpc", True, list(START_ORDER)),
        ("pc2", False, [name for name in START_ORDER if name != "toxiproxy"]),
    ],
)
def test_each_role_has_its_units(host: str, chaos: bool, names: list[str]) -> None:
    assert list(units(host, chaos=chaos)) == names


@pytest.mark.parametrize("fleet", [ONE, TWO], ids=["one host", "two hosts"])
@pytest.mark.parametrize("chaos", [True, False])
def test_everything_resolves_and_is_stable(fleet: Fleet, chaos: bool, tmp_path: Path) -> None:
    for host in fleet.hosts:
        first, again = units(host.name, fleet, chaos), units(host.name, fleet, chaos)
        assert {n: u.sha256 for n, u in first.items()} == {n: u.sha256 for n, u in again.items()}
        for unit in first.values():
            result = rendered(unit, tmp_path / unit.host / unit.name)
            texts = (*result.args, *result.env.values(), *result.files.values(), result.ready_path or "")
            left = [t for t in texts if re.search(r"\{(data|config|run|pki|local|address[^}]*)\}", t)]
            assert not left


def test_a_stack_starts_layer_by_layer() -> None:
    made = plan(TWO, environment()).units
    order = [START_ORDER.index(unit.name) for unit in made]
    assert order == sorted(order)
    assert [unit.host for unit in made if unit.name == "etcd"] == ["mainpc", "pc2", "witness"]


def test_etcd_members_know_each_other_and_the_last_one_answers_for_all() -> None:
    made = {host.name: units(host.name)["etcd"] for host in TWO.hosts}
    clusters = {next(a for a in u.args if a.startswith("--initial-cluster=")) for u in made.values()}
    assert clusters == {
        "--initial-cluster=mainpc=https://{address:mainpc}:2380,pc2=https://{address:pc2}:2380,"
        "witness=https://{address:witness}:2380"
    }
    for unit in made.values():
        assert {"--client-cert-auth=true", "--peer-client-cert-auth=true"} <= set(unit.args)
        assert {"--heartbeat-interval=50", "--election-timeout=500", "--pre-vote=true"} <= set(unit.args)
        assert not [a for a in unit.args if "http://" in a]
    kinds = {host: unit.ready.kind for host, unit in made.items()}
    assert kinds == {"mainpc": ReadyKind.TCP, "pc2": ReadyKind.TCP, "witness": ReadyKind.HTTPS}


def test_another_set_of_members_is_another_cluster() -> None:
    smaller = Fleet(name="two", hosts=TWO.hosts[:2], agents=())

    def data(fleet: Fleet) -> str:
        return next(a for a in units("mainpc", fleet)["etcd"].args if a.startswith("--data-dir="))

    assert data(TWO) != data(smaller)


def test_redis_replicates_the_first_worker_over_tls() -> None:
    primary, replica = (units(host)["redis"].files["redis.conf"] for host in ("mainpc", "pc2"))
    assert "replicaof" not in primary
    assert "replicaof {address:mainpc} 6379" in replica
    for text in (primary, replica):
        assert {"port 0", "tls-auth-clients yes", "tls-replication yes", 'save ""'} <= set(text.splitlines())
    assert "replicaof" not in units("solo", ONE)["redis"].files["redis.conf"]


@pytest.mark.parametrize(
    ("chaos", "peer"),
    [
        (True, {"host": "pc2", "connect_host": "127.0.0.1", "connect_port": 7721}),
        (False, {"host": "pc2", "connect_host": "10.77.1.12", "connect_port": 7710}),
    ],
)
def test_host_configuration_has_the_agreed_shape(
    chaos: bool, peer: dict[str, object], tmp_path: Path
) -> None:
    made = units("mainpc", chaos=chaos)
    for name in ("hostd", "gateway"):
        unit = made[name]
        assert unit.env["THREENINES_CONFIG"] == f"{{config}}/{name}.json"
        found = json.loads(rendered(unit, tmp_path / name).files[f"{name}.json"])
        assert found["schema"] == "threenines.host/1"
        assert found["peers"] == [peer]
        assert [member["host"] for member in found["etcd"]] == ["mainpc", "witness", "pc2"]
        assert found["etcd"][0]["url"] == "https://10.77.1.11:2379"
        remote = ["https://127.0.0.1:7802", "https://127.0.0.1:7801"]
        direct = ["https://10.77.1.13:2379", "https://10.77.1.12:2379"]
        assert [member["url"] for member in found["etcd"][1:]] == (remote if chaos else direct)
        redis = (
            [("127.0.0.1", 7870), ("127.0.0.1", 7871)]
            if chaos
            else [("10.77.1.11", 6379), ("10.77.1.12", 6379)]
        )
        assert [(r["address"], r["port"]) for r in found["redis"]] == redis
        assert [p["port"] for p in found["prometheus"]] == ([7940, 7941] if chaos else [9090, 9090])
        assert [h["index"] for h in found["hosts"]] == [0, 1, 2]
        assert [(r["host"], r["role"]) for r in found["redis"]] == [("mainpc", "primary"), ("pc2", "replica")]
        assert found["lease"]["lease_ms"] > found["lease"]["renew_ms"] > found["lease"]["deadline_ms"]
        assert found["chaos"] is chaos
    other = json.loads(rendered(units("pc2", chaos=chaos)["hostd"], tmp_path / "other").files["hostd.json"])
    assert [member["host"] for member in other["etcd"]] == ["pc2", "witness", "mainpc"]


def test_toxiproxy_listens_where_programs_dial(tmp_path: Path) -> None:
    made = units("pc2")
    proxies = json.loads(rendered(made["toxiproxy"], tmp_path).files["toxiproxy.json"])
    ways = {p["name"]: (p["listen"], p["upstream"]) for p in proxies}
    assert len(ways) == len(proxies)
    config = json.loads(rendered(made["hostd"], tmp_path).files["hostd.json"])
    dialled = {
        **{f"gateway-{p['host']}": f"{p['connect_host']}:{p['connect_port']}" for p in config["peers"]},
        **{f"etcd-{m['host']}": m["url"].removeprefix("https://") for m in config["etcd"][1:]},
        **{f"redis-{r['host']}": f"{r['address']}:{r['port']}" for r in config["redis"]},
        **{f"prometheus-{p['host']}": f"{p['address']}:{p['port']}" for p in config["prometheus"]},
    }
    assert {name: listen for name, (listen, _) in ways.items()} == dialled
    assert ways["gateway-mainpc"][1] == "10.77.1.11:7710"
    assert ways["etcd-witness"][1] == "10.77.1.13:2379"
    assert ways["redis-pc2"][1] == "10.77.1.12:6379"
    assert ways["prometheus-mainpc"][1] == "10.77.1.11:9090"


def test_agents_outlive_the_zygote_alone() -> None:
    assert [name for name, unit in units("mainpc").items() if unit.keeps_children] == ["zygote"]


@pytest.fixture
def certified(tmp_path: Path) -> Path:
    """A folder in which a host's certificates stand, as on a host."""
    pki = tmp_path / "pki"
    authority = Authority(pki, "t")
    for name in ("host", "monitor"):
        authority.ensure_leaf(Leaf(pki / f"{name}.pem", pki / f"{name}.key"), name, ("mainpc",))
    return tmp_path


@pytest.mark.parametrize(("host", "fleet"), [("mainpc", TWO), ("pc2", TWO), ("solo", ONE)])
def test_promtool_accepts_the_configuration(host: str, fleet: Fleet, certified: Path) -> None:
    files = rendered(units(host, fleet)["prometheus"], certified).files
    config = certified / "config"
    for command in (
        ["check", "config", str(config / "prometheus.yml")],
        ["check", "web-config", str(config / "web.yml")],
        *(["check", "rules", str(config / name)] for name in files if name.startswith("rules/")),
    ):
        done = subprocess.run([tool("promtool"), *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_finds_agents_through_every_worker(tmp_path: Path) -> None:
    config = yaml.safe_load(rendered(units("pc2")["prometheus"], tmp_path).files["prometheus.yml"])
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    assert [sd["url"] for sd in jobs["agents"]["http_sd_configs"]] == [
        "https://10.77.1.11:7701/v1/prometheus/targets",
        "https://10.77.1.12:7701/v1/prometheus/targets",
    ]
    assert len(jobs["etcd"]["static_configs"]) == 3
    for job in jobs.values():
        assert job["scheme"] == "https"
        assert job["tls_config"]["cert_file"].endswith("/monitor.pem")


@pytest.mark.parametrize("host", ["mainpc", "solo"])
def test_amtool_accepts_the_configuration(host: str, certified: Path) -> None:
    fleet = ONE if host == "solo" else TWO
    rendered(units(host, fleet)["alertmanager"], certified)
    done = subprocess.run(
        [tool("amtool"), "check-config", str(certified / "config" / "alertmanager.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
