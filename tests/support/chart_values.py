"""Values of the chart that tests render, what users choose, each alone and some together; and what is made of them."""

from collections.abc import Mapping
from typing import Any

import pytest

from app.configuration.settings import Settings
from deploy.chart import GPU_VALUES, merged, rendered

KUBERNETES = "1.37"
OPERATORS = {"ScaledObject", "ServiceMonitor", "PrometheusRule"}  # whose kinds Kubernetes itself does not know

Values = dict[str, Any]


def gpu_values() -> Values:
    """Those that ship for a GPU."""
    return merged(GPU_VALUES)


CASES: dict[str, Values] = {
    "default": {},
    "gpu": gpu_values(),
    "gpu engines": {**gpu_values(), "gpu": {"buildEngines": True}, "runtimeClassName": "nvidia"},
    "keda": {
        "autoscaling": {"kind": "keda", "keda": {"fallbackReplicas": 4, "authentication": "prometheus"}},
        "monitoring": {
            "labels": {"release": "prometheus"},
            "serviceMonitor": {"enabled": True},
            "rules": {"enabled": True},
        },
    },
    "hpa": {"autoscaling": {"kind": "hpa"}},
    "hpa with other metrics": {
        "autoscaling": {
            "kind": "hpa",
            "hpa": {
                "cpuPercent": 0,
                "metrics": [
                    {
                        "type": "External",
                        "external": {
                            "metric": {"name": "crossvit_waiting"},
                            "target": {"type": "AverageValue", "averageValue": "16"},
                        },
                    }
                ],
            },
        }
    },
    "ingress": {
        "ingress": {
            "enabled": True,
            "className": "nginx",
            "host": "api.example.org",
            "tlsSecret": "api-tls",
            "annotations": {"nginx.ingress.kubernetes.io/proxy-body-size": "10m"},
        }
    },
    "claim": {"model": {"from": "claim", "claim": "bundles", "path": "nets", "default": "crossvit_18_dagger"}},
    "bundle in the image": {"model": {"from": "image"}, "image": {"repository": "registry.example:5000/mine"}},
    "bundle in another image": {"model": {"from": "image", "image": "registry.example/bundles:1"}},
    "hub": {
        "model": {
            "source": "hf:timm/crossvit_9_240.in1k@v1.0",
            "options": ["--activation", "sigmoid"],
            "hub": {"tokenSecret": "hub", "endpoint": "https://mirror.example"},
        },
        "image": {"digest": "sha256:" + "0123456789abcdef" * 4, "pullSecrets": ["registry"]},
    },
    "keys": {"keys": {"existingSecret": "crossvit-keys", "admin": "admins"}, "settings": {"rate_limit": "600/minute"}},
    "settings": {
        "settings": {
            "max_body_bytes": 20000000,
            "null_rate": 0.5,
            "page": False,
            "preload": [384, 480],
            "cors_origins": ["https://example.org"],
            "log_level": "debug",
        },
        "instances": 4,
        "stop": {"graceSeconds": 12.5, "drainSeconds": 61},
    },
    "everywhere": {
        "priorityClassName": "high",
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        "podAnnotations": {"a": "b"},
        "podLabels": {"team": "vision"},
        "serviceAccount": {"create": False, "name": "other"},
        "networkPolicy": {
            "from": [{"namespaceSelector": {"matchLabels": {"name": "web"}}}],
            "egress": [{"ports": [{"port": 4318, "protocol": "TCP"}]}],
        },
        "fullnameOverride": "vision",
    },
    "extras": {
        "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
        "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
        "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ssl/mine", "readOnly": True}],
    },
    "grpc": {"grpc": {"enabled": True}},
}


def deployed(values: Values) -> tuple[dict[str, Any], Mapping[str, str]]:
    """The pod of the service, and its settings."""
    found = {manifest["kind"]: manifest for manifest in rendered(values)}
    return found["Deployment"]["spec"]["template"]["spec"], found["ConfigMap"]["data"]


def accepted(environment: Mapping[str, str], arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings that the service reads of both."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Settings.from_command_line(arguments)
