"""arq: jobs that succeed become uses of the user whose request sent them."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar, Unpack
from weakref import WeakKeyDictionary

from arq import ArqRedis
from arq.worker import func

from usage_instrument.errors import ConfigurationError
from usage_instrument.runtime import log

from .tasks import ACTOR, HEADER, TaskCounter, TaskOptions, stamp

__all__ = ["ArqJob", "carry_user", "instrument"]

Settings = TypeVar("Settings", bound=type)

_counters: WeakKeyDictionary[type, TaskCounter] = WeakKeyDictionary()
_headers: ContextVar[Mapping[str, Any]] = ContextVar("usage_instrument_arq_headers")
"""The headers of the job that this task of the worker runs."""


class ArqJob(NamedTuple):
    """A job that runs, for the callables among the options."""

    name: str
    """The name of its function."""
    context: Mapping[str, Any]
    """arq's `ctx`."""
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


def carry_user(pool: ArqRedis) -> ArqRedis:
    """Let the jobs that `pool` enqueues carry the user of the code that enqueues them, and who acts as that user.

    Returns the pool: `redis = carry_user(await create_pool(RedisSettings()))`. The ids stand beside the arguments in
    the serialised job; workers that do not know them ignore them.
    """
    pool.job_serializer = _stamping(pool.job_serializer)
    return pool


def instrument(settings: Settings, **options: Unpack[TaskOptions[ArqJob]]) -> Settings:
    """Count each success of a job under the name of its function. Returns the class: `instrument(WorkerSettings)`.

    A job belongs to the user of the code that enqueues it, if its pool does `carry_user`; the pool of the worker, in
    `ctx["redis"]`, does. Retries, failures and aborted jobs do not count. The options are those of the middlewares;
    callables get an ArqJob, and patterns match the name of the function.

    Raises FeatureNameError and ConfigurationError (ValueErrors), DeclarationError, MetadataError and TypeError.
    """
    own = vars(settings) if isinstance(settings, type) else {}
    if not ("functions" in own or "cron_jobs" in own):
        raise ConfigurationError("instrument takes the class of arq's settings, with functions or cron_jobs in it")
    is_known = settings in _counters
    _counters[settings] = TaskCounter(options)
    if is_known:
        name = settings.__qualname__
        log.warning(("instrumented", name), "the arq settings %s are instrumented already; the new options hold", name)
        return settings
    changed: dict[str, Any] = {
        "functions": [_counted(settings, func(each)) for each in own.get("functions", ())],
        "job_serializer": _stamping(own.get("job_serializer")),
        "job_deserializer": _reading(own.get("job_deserializer")),
    }
    if own.get("cron_jobs"):
        changed["cron_jobs"] = [_counted(settings, each) for each in own["cron_jobs"]]
    for key, value in changed.items():
        setattr(settings, key, value)
    if own.get("redis_pool") is not None:
        carry_user(own["redis_pool"])
    return settings


def _counted(settings: type, function: Any) -> Any:
    """The Function or CronJob with a coroutine that counts."""
    original = function.coroutine

    async def run(context: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        job = ArqJob(function.name, context, args, kwargs)
        counted = _counters[settings].begin(job, _headers.get({}))
        try:
            result = await original(context, *args, **kwargs)
            counted.succeed(function.name, original)
        finally:
            counted.end()
        return result

    return replace(function, coroutine=run)


class _Stamp:
    """A serialiser that stamps jobs; results are serialised as they are."""

    def __init__(self, serialize: Callable[[dict[str, Any]], bytes]) -> None:
        self._serialize = serialize

    def __call__(self, data: dict[str, Any]) -> bytes:
        if "r" not in data:
            stamp(data)
        return self._serialize(data)


def _stamping(serialize: Callable[[dict[str, Any]], bytes] | None) -> _Stamp:
    return serialize if isinstance(serialize, _Stamp) else _Stamp(serialize or pickle.dumps)


def _reading(deserialize: Callable[[bytes], dict[str, Any]] | None) -> Callable[[bytes], dict[str, Any]]:
    """A deserialiser that keeps the headers of a job for its function, which arq calls from the same task."""
    read = deserialize or pickle.loads

    def deserialized(text: bytes) -> dict[str, Any]:
        data = read(text)
        if "r" not in data:
            _headers.set({name: data[name] for name in (HEADER, ACTOR) if name in data})
        return data

    return deserialized
