"""Ports of this machine: which is free, and who has the one that is wanted."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Generator
from contextlib import contextmanager

import psutil
from psutil._ntuples import sconn

from local.errors import StackError


@contextmanager
def listening(host: str, port: int) -> Generator[socket.socket]:
    """A socket bound to this machine only: the keys of a local stack are public."""
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local:
        raise StackError(f"The stack listens on this machine only, not on {host}.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's delay off only where the protocol is named; otherwise each answer waits 40 ms for an ACK.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(2048)
        except OSError as exc:
            raise StackError(_refusal(exc, port, purpose="the gateway", option="--port")) from exc
        yield listener


def free_port() -> int:
    """A port nobody listens on right now; the caller must be ready to lose it to somebody quicker."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def refuse_unusable(port: int, *, purpose: str, option: str) -> None:
    """See that a server on 127.0.0.1 will get the port.

    Raises:
        StackError: it would not; the message says why, and names the option that chooses another.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as exc:
            raise StackError(_refusal(exc, port, purpose=purpose, option=option)) from exc


def _refusal(error: OSError, port: int, *, purpose: str, option: str) -> str:
    """Why a port cannot be had: by whom it is taken, as far as we may know, and what to do.

    The usual ports lie where the system also takes those of outgoing connections from, so a program that listens on
    none of them can be in the way for as long as its connection lasts.
    """
    other = f"choose another with {option} (0 takes a free one)"
    if error.errno != errno.EADDRINUSE:
        return f"Port {port} for {purpose} cannot be used: {error.strerror}. To go on, {other}."
    holders = [one for one in _connections() if one.laddr and one.laddr.port == port]
    listening = next((one for one in holders if one.status == psutil.CONN_LISTEN), None)
    if listening is not None:
        return f"Port {port} for {purpose} is taken by {_program(listening.pid)}. Stop it, or {other}."
    if holders:
        # What was a connection of the same port before lingers beside it, and is nobody's.
        whose = _program(next((one.pid for one in holders if one.pid is not None), None))
        return (
            f"Port {port} for {purpose} is taken by an outgoing connection of {whose}. "
            f"Try again when that has ended, or {other}."
        )
    return f"Port {port} for {purpose} is taken by another program. Stop it, or {other}."


def _connections() -> list[sconn]:
    try:
        return psutil.net_connections("tcp")
    except psutil.Error:  # macOS shows them to root alone
        return []


def _program(pid: int | None) -> str:
    """A process by name and id; one of another user's cannot be told."""
    if pid is None:
        return "another program"
    try:
        return f"{psutil.Process(pid).name()} (process {pid})"
    except psutil.Error:
        return f"process {pid}"
