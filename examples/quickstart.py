"""Harden the bundled encoder on digits, read what it withstands, use it: under ten minutes on two CPU cores.

python examples/quickstart.py
"""

from __future__ import annotations

from genaf_sdk import HardenedModel, harden

OUTPUT = "quickstart-output"


def main() -> None:
    """Harden, then reload what was written, as a program that uses the model would."""
    result = harden("bundled:simclr-cifar10", "digits", output_dir=OUTPUT)
    report = result.report
    print(report.verdict)
    for column in ("clean", "transfer", "adaptive", "white-box"):
        before, after = report.accuracy(column, "undefended"), report.accuracy(column)
        print(f"{column:10} {before:6.1%} -> {after:6.1%}")

    model = HardenedModel.from_pretrained(OUTPUT)
    pixels, labels = result.data.test.sample(5)  # (5, 3, 32, 32) in [0, 1]
    print("predicted", model.predict(pixels), "true", [result.data.class_names[label] for label in labels])
    print(f"{OUTPUT}/report.html holds the rest.")


if __name__ == "__main__":
    main()
