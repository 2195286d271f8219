"""njit: numba's compiler with this project's settings, or one sentence when numba is missing."""

from __future__ import annotations

from polytask.errors import InputError

try:
    import numba
except ImportError:
    raise InputError("package 'numba' is not installed; install polytask[trees]") from None

# No fastmath: a row must give the same bits alone, in a block, and after a model was loaded.
njit = numba.njit(cache=True, error_model="numpy", nogil=True)
