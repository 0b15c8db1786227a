"""One whole run on an encoder that people download, with its report: what ``harden`` leaves is in --output.

    python benchmarks/real_run.py mobilenet_v1_x0.25 --encoders FOLDER --data PICTURES --size 96 --output hardened

``--encoders`` is as for ``robustness.py``, ``--data`` a folder of pictures by class. ``tools/write_gallery.py``
puts the run into the gallery.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from robustness import ENCODERS

from genaf_sdk import HardenConfig, harden


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", choices=list(ENCODERS))
    parser.add_argument("--encoders", type=Path, default=Path(), help="folder of encoders")
    parser.add_argument("--data", required=True, help="folder of pictures, or a data id")
    parser.add_argument("--size", type=int, help="pixels a side; by default the encoder's own")
    parser.add_argument("--preset", default="default", help="as for genaf harden")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    sys.path.insert(0, str(arguments.encoders.resolve()))
    side = None if arguments.size is None else (arguments.size, arguments.size)
    encoder = ENCODERS[arguments.encoder](arguments.encoders, side)
    config = HardenConfig.preset(arguments.preset)
    result = harden(encoder, arguments.data, config, output_dir=arguments.output, progress=True)
    if result.report is not None:
        print(result.report.verdict)


if __name__ == "__main__":
    main()
