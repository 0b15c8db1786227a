"""Write ``genaf_sdk/report/schema.json`` anew from the types of the report; a test compares them."""

from __future__ import annotations

from pathlib import Path

import genaf_sdk.report.schema
from genaf_sdk.files import write_json

if __name__ == "__main__":
    write_json(Path(genaf_sdk.report.schema.__file__).with_suffix(".json"), genaf_sdk.report.schema.report_schema())
