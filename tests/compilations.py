"""How many programs a call compiles."""

import jax


def count_compilations(run) -> int:
    """Returns the number of programs that are compiled while a function runs."""
    count = 0

    def listen(event, *_, **__):
        nonlocal count
        count += event == "/jax/core/compile/backend_compile_duration"

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        run()
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    return count
