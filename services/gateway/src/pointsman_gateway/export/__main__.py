"""Runs the exporter for all gateways that share a write-ahead log's folder: `python -m pointsman_gateway.export`."""

import argparse
import logging
import signal
import sys
from threading import Event

from pointsman_servicekit import logs
from pointsman_servicekit.setting_names import UnknownSetting
from pointsman_servicekit.setting_values import WrongSetting

from pointsman_gateway.export.exporter import Exporter
from pointsman_gateway.export.failures import cause_of
from pointsman_gateway.export.open_targets import open_targets
from pointsman_gateway.export.record_target import WrongTarget
from pointsman_gateway.export.segments import FolderInUse, SegmentFolder
from pointsman_gateway.export.settings import read_settings
from pointsman_gateway.request_log.export_log import export_dir

log = logging.getLogger(__name__)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m pointsman_gateway.export", description=__doc__)
    parser.add_argument("--once", action="store_true", help="export all finished segments, and stop")
    once: bool = parser.parse_args().once
    try:
        settings = read_settings()
    except (UnknownSetting, WrongSetting) as error:
        return _fail(str(error))
    logs.configure_logging("export", settings.log_level, settings.log_format)
    try:
        target = open_targets(settings.target)
        segments = SegmentFolder(export_dir(settings.wal_dir))
    except (WrongTarget, FolderInUse, OSError) as error:
        return _fail(str(error))
    exporter = Exporter(segments, target, 0.0 if once else settings.seconds)
    if once:
        try:
            exporter.export_all()
        except Exception as error:  # each store's library has errors of its own
            return _fail(f"records wait on disk, because they cannot be exported: {cause_of(error)}")
        return 0
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    log.info("records in %s are exported to %s", segments.folder, settings.target)
    exporter.run(stop)
    return 0


def _fail(reason: str) -> int:
    print(f"error: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
