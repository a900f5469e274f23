"""The process: settings, logging, signals, serving, and an orderly end."""

import asyncio
import logging
import os
import signal
import sys

from app.bootstrap import create_app
from app.fanout import FanoutStartError
from app.hub import Hub
from app.logs import ClientLines, configure
from app.memory import collecting_seldom, keep_large_pieces_apart, tidy_up
from app.sending import SendToEach, to_many
from app.server import Guards, Unfinished, Windows, serve
from app.settings import Settings, SettingsError, unknown_variables

logger = logging.getLogger("app")

OK, FAILED, BAD_CONFIGURATION = 0, 1, 2
DRAIN_TIMEOUT = 2.0
CLOSE_TIMEOUT = 4.5
"""Seconds for telling the clients to leave, and then, while they do, for flushing what was accepted and deleting the
subscription. With what HTTP gets after that it is less than 8; Cloud Run gives 10."""


def main(arguments: list[str]) -> int:
    """Run until SIGTERM or SIGINT, or do what the command line says; answers the exit status."""
    try:
        if arguments:
            from app import commands  # noqa: PLC0415  # what serves does not need it

            return commands.run(arguments)
        return _serve()
    except SettingsError as error:
        for line in error.lines:
            print(line, file=sys.stderr)
        return BAD_CONFIGURATION
    except FanoutStartError as error:
        logger.critical("cannot start: %s", error)
        return FAILED


def _serve() -> int:
    settings = Settings.from_environment(os.environ)
    lines = configure(settings.log_level, for_cloud_run=settings.on_cloud_run, project=settings.google_cloud_project)
    for sentence in unknown_variables(os.environ):
        logger.warning(sentence)
    for sentence in settings.warnings():
        logger.warning(sentence)
    try:
        keep_large_pieces_apart()
        with collecting_seldom(), to_many() as send_to_each:
            return asyncio.run(run(settings, send_to_each, lines))
    except OSError as error:
        logger.critical("cannot listen on port %d: %s", settings.port, error.strerror or error)
        return FAILED


async def run(settings: Settings, send_to_each: SendToEach, lines: ClientLines) -> int:
    """Serve until a signal comes, or the hub finds that it can never be ready."""
    app = create_app(settings, send_to_each=send_to_each, loopback_names_only=settings.serves_own_machine)
    hub: Hub = app.extensions["cloud_sockets"]
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    async def until_stopped() -> None:
        if hub.failed is not None:
            hub.failed.add_done_callback(lambda _: stop.set())
        await stop.wait()
        logger.info("stopping: %d connections are sent elsewhere", len(hub.connections))
        draining = asyncio.create_task(hub.drain())
        await asyncio.wait({draining}, timeout=DRAIN_TIMEOUT)
        # Whoever does not take its close frame must not take the time that publishing has.
        ends = {draining, asyncio.create_task(hub.gone()), asyncio.create_task(hub.close())}
        await asyncio.wait(ends, timeout=CLOSE_TIMEOUT)

    metrics = hub.metrics
    unfinished = Unfinished(settings.max_unfinished_bytes, metrics.connections_shed.labels("unfinished").inc)
    metrics.watch(metrics.unfinished_bytes, lambda: unfinished.bytes)
    windows = Windows(settings.max_unfinished_bytes // 2, metrics.connections_shed.labels("window").inc)
    metrics.watch(metrics.window_bytes, lambda: windows.bytes)
    metrics.watch(metrics.log_lines_held_back, lambda: lines.held_back)
    guards = Guards(
        unfinished,
        windows,
        settings.max_connections,
        sockets=lambda: len(hub.connections),
        on_full=metrics.connections_refused.labels("full").inc,
        on_malformed=metrics.connections_refused.labels("handshake").inc,
        on_shed=lambda reason: metrics.connections_shed.labels(reason).inc(),
    )
    tidying = asyncio.create_task(tidy_up())
    try:
        await serve(
            app,
            addresses=settings.addresses,
            port=settings.port,
            max_payload=settings.max_payload,
            deflate=settings.per_message_deflate,
            until=until_stopped,
            http2=settings.http2,
            guards=guards,
        )
    finally:
        tidying.cancel()
        await asyncio.wait({tidying})
    logger.info("stopped")
    return FAILED if hub.failed is not None and hub.failed.done() else OK


if __name__ == "__main__":
    status = main(sys.argv[1:])
    logging.shutdown()
    sys.stdout.flush()
    # Not sys.exit: that would wait for a custom handler that hangs in its thread, longer than Cloud Run waits for us.
    os._exit(status)
