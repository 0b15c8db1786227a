"""An InferenceService manifest for KServe: the Triton repository, or the bundle's own server as a container."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml

from genaf_sdk.errors import ExportError
from genaf_sdk.files import replacing

if TYPE_CHECKING:
    from pathlib import Path

SCRATCH = "scratch"
"""The one folder that the image writes to, where its root may be read only: TensorRT keeps its engines there."""


def kserve_manifest(
    name: str,
    *,
    storage_uri: str = "",
    image: str = "",
    namespace: str = "",
    cpu: str = "2",
    memory: str = "4Gi",
    gpus: int = 0,
    replicas: tuple[int, int] = (1, 1),
) -> dict[str, Any]:
    """Return the manifest as plain objects.

    Args:
        name: Of the service: a DNS label.
        storage_uri: Where the Triton repository lies, such as ``s3://bucket/repository``; KServe's Triton serves it.
        image: Or: a container image built from the bundle's ``serve/Dockerfile``.
        namespace: Empty is kubectl's own.
        cpu: Cores a replica, as Kubernetes writes them.
        memory: Of a replica, likewise.
        gpus: NVIDIA GPUs a replica.
        replicas: Fewest and most; 0 lets the service scale to zero.

    Raises:
        ExportError: A name that Kubernetes refuses, both or neither of the sources, or impossible numbers.
    """
    for label in (name, namespace or "default"):
        if not re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", label):
            raise ExportError(
                f"{label!r} is no name of a service or namespace.",
                expected="at most 63 of a-z, 0-9 and '-', a letter first, no '-' last",
                remedy="choose another (--name, --namespace)",
            )
    if bool(storage_uri) == bool(image):
        raise ExportError(
            f"storage_uri is {storage_uri!r} and image {image!r}.",
            expected="one of them",
            remedy="give the URI of a Triton repository (--storage-uri), or an image of the bundle's server (--image)",
        )
    if storage_uri and not re.fullmatch(r"[a-z0-9]+://\S+", storage_uri):
        raise ExportError(f"storage_uri is {storage_uri!r}.", expected="a URI such as s3://bucket/repository")
    fewest, most = replicas
    if gpus < 0 or not 0 <= fewest <= most or most < 1:
        raise ExportError(f"gpus is {gpus} and replicas {replicas}.", expected="gpus >= 0 and 0 <= fewest <= most")
    for option, amount in (("cpu", cpu), ("memory", memory)):
        if not re.fullmatch(r"[0-9]+(\.[0-9]+)?([munkMGTPE]|[KMGTPE]i|[eE][-+]?[0-9]+)?", amount):
            expected = "an amount as Kubernetes writes it, such as 500m or 4Gi"
            raise ExportError(f"{option} is {amount!r}.", expected=expected)
    amounts: dict[str, Any] = {"cpu": cpu, "memory": memory} | ({"nvidia.com/gpu": gpus} if gpus else {})
    resources = {"requests": amounts, "limits": dict(amounts)}
    predictor: dict[str, Any] = {"minReplicas": fewest, "maxReplicas": most}
    if storage_uri:
        predictor["model"] = {
            "modelFormat": {"name": "onnx"},
            "runtime": "kserve-tritonserver",
            "protocolVersion": "v2",
            "storageUri": storage_uri,
            "resources": resources,
        }
    else:
        predictor["containers"] = [_container(image, resources)]
        predictor["volumes"] = [{"name": SCRATCH, "emptyDir": {}}]
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": metadata,
        "spec": {"predictor": predictor},
    }


def write_kserve_manifest(path: Path, name: str, **options: Any) -> Path:
    """Write the manifest of ``kserve_manifest`` as YAML and return the path.

    Args:
        path: YAML file to write.
        name: Of the service.
        **options: Of ``kserve_manifest``.

    Raises:
        ExportError: As for ``kserve_manifest``.
        OutputError: The file cannot be written.
    """
    text = yaml.safe_dump(kserve_manifest(name, **options), sort_keys=False)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def _container(image: str, resources: dict[str, Any]) -> dict[str, Any]:
    probe = {"port": 8000}
    return {
        "name": "kserve-container",
        "image": image,
        "args": ["--open"],  # who reaches a service inside the cluster is the cluster's business
        "ports": [{"containerPort": 8000, "protocol": "TCP"}],
        "resources": resources,
        "readinessProbe": {"httpGet": {"path": "/v2/health/ready", **probe}},
        "livenessProbe": {"httpGet": {"path": "/v2/health/live", **probe}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
        },
        "volumeMounts": [{"name": SCRATCH, "mountPath": "/tmp"}],  # noqa: S108  # the container's
    }
