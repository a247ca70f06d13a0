"""The templates of Prometheus and Alertmanager: a pair of each, so that one host's loss blinds nobody."""

from __future__ import annotations

from pathlib import Path

import yaml

from infra.plan import Environment, ReadyCheck, ReadyKind, UnitSpec
from infra.topology import Fleet, HostSpec, Port

RULES_FOLDER = Path(__file__).resolve().parents[1] / "services" / "observability" / "rules"

SCRAPE_INTERVAL_S = 5
NICE = 10
"""A host that returns reads its metrics' log for seconds of CPU: those who decide who serves go before."""

_SERVER_TLS = {
    "cert_file": "{pki}/host.pem",
    "key_file": "{pki}/host.key",
    "client_auth_type": "RequireAndVerifyClientCert",
    "client_ca_file": "{pki}/ca.pem",
}
"""Prometheus' and Alertmanager's own way to say mutual TLS (exporter-toolkit, web-configuration)."""


def alertmanager(host: HostSpec, fleet: Fleet, environment: Environment) -> UnitSpec:
    """Both workers' form one cluster over TLS, so that an alert is sent once."""
    cluster = {
        "tls_server_config": _SERVER_TLS,
        "tls_client_config": {
            "cert_file": "{pki}/host.pem",
            "key_file": "{pki}/host.key",
            "ca_file": "{pki}/ca.pem",
        },
    }
    routing = {
        "route": {
            "receiver": "record",
            "group_by": ["alertname", "host"],
            "group_wait": "2s",
            "group_interval": "10s",
            "repeat_interval": "4h",
        },
        "receivers": [{"name": "record"}],
    }
    peers = tuple(
        f"--cluster.peer={{address:{h.name}}}:{Port.ALERTMANAGER_CLUSTER}"
        for h in fleet.workers
        if h.name != host.name
    )
    return UnitSpec(
        host=host.name,
        name="alertmanager",
        program="alertmanager",
        nice=NICE,
        args=(
            "--config.file={config}/alertmanager.yml",
            "--storage.path={data}",
            "--data.retention=120h",
            f"--web.listen-address={{address}}:{Port.ALERTMANAGER}",
            "--web.config.file={config}/web.yml",
            f"--cluster.listen-address={{address}}:{Port.ALERTMANAGER_CLUSTER}",
            f"--cluster.advertise-address={{address}}:{Port.ALERTMANAGER_CLUSTER}",
            "--cluster.tls-config={config}/cluster.yml",
            "--cluster.reconnect-interval=2s",
            "--cluster.settle-timeout=5s",
            *peers,
            "--log.level=warn",
        ),
        files={
            "alertmanager.yml": _yaml(routing),
            "web.yml": _yaml({"tls_server_config": _SERVER_TLS}),
            "cluster.yml": _yaml(cluster),
        },
        ready=ReadyCheck(kind=ReadyKind.HTTPS, port=Port.ALERTMANAGER, path="/-/ready", timeout_s=20.0),
    )


def prometheus(host: HostSpec, fleet: Fleet, environment: Environment) -> UnitSpec:
    """Each worker's watches the whole stack, so that the loss of one host loses no sight of the other."""
    tls = {
        "ca_file": "{pki}/ca.pem",
        "cert_file": "{pki}/monitor.pem",
        "key_file": "{pki}/monitor.key",
    }

    def static(job: str, port: int, hosts: tuple[HostSpec, ...], path: str = "/metrics") -> dict[str, object]:
        return {
            "job_name": job,
            "scheme": "https",
            "metrics_path": path,
            "tls_config": tls,
            "static_configs": [
                {"targets": [f"{{address:{h.name}}}:{port}"], "labels": {"host": h.name}} for h in hosts
            ],
        }

    workers = fleet.workers
    config = {
        "global": {
            "scrape_interval": f"{SCRAPE_INTERVAL_S}s",
            "scrape_timeout": f"{SCRAPE_INTERVAL_S - 1}s",
            "evaluation_interval": f"{SCRAPE_INTERVAL_S}s",
            "external_labels": {"stack": environment.stack, "prometheus": host.name},
        },
        "rule_files": ["{config}/rules/*.yml"],
        "alerting": {
            # Both Prometheus send the same alert; without the label that tells them apart it counts once.
            "alert_relabel_configs": [{"regex": "prometheus", "action": "labeldrop"}],
            "alertmanagers": [
                {
                    "scheme": "https",
                    "tls_config": tls,
                    "static_configs": [
                        {"targets": [f"{{address:{h.name}}}:{Port.ALERTMANAGER}" for h in workers]}
                    ],
                }
            ],
        },
        "scrape_configs": [
            {
                "job_name": "agents",
                "scheme": "https",
                "tls_config": tls,
                "http_sd_configs": [
                    {
                        "url": f"https://{{address:{h.name}}}:{Port.HOSTD}/v1/prometheus/targets",
                        "refresh_interval": f"{SCRAPE_INTERVAL_S}s",
                        "tls_config": tls,
                    }
                    for h in workers
                ],
            },
            static("hostd", Port.HOSTD, workers, "/v1/metrics"),
            static("etcd", Port.ETCD_CLIENT, fleet.hosts),
            static("prometheus", Port.PROMETHEUS, workers),
            static("alertmanager", Port.ALERTMANAGER, workers),
        ],
    }
    rules = {
        f"rules/{path.name}": path.read_text(encoding="utf-8") for path in sorted(RULES_FOLDER.glob("*.yml"))
    }
    return UnitSpec(
        host=host.name,
        name="prometheus",
        program="prometheus",
        nice=NICE,
        args=(
            "--config.file={config}/prometheus.yml",
            "--storage.tsdb.path={data}",
            "--storage.tsdb.retention.time=15d",
            "--storage.tsdb.retention.size=2GB",
            f"--web.listen-address={{address}}:{Port.PROMETHEUS}",
            "--web.config.file={config}/web.yml",
            f"--web.external-url=https://{{address}}:{Port.PROMETHEUS}/",
            "--log.level=warn",
        ),
        files={
            "prometheus.yml": _yaml(config),
            "web.yml": _yaml({"tls_server_config": _SERVER_TLS}),
            **rules,
        },
        ready=ReadyCheck(kind=ReadyKind.HTTPS, port=Port.PROMETHEUS, path="/-/ready", timeout_s=30.0),
        stop_timeout_s=10.0,
    )


def _yaml(document: object) -> str:
    return yaml.safe_dump(document, sort_keys=False, width=1000)
