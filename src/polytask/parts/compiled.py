"""numba's compiler with this project's settings, or one sentence when numba is missing."""

from __future__ import annotations

from polytask.errors import InputError

try:
    import numba
except ImportError:
    raise InputError("package 'numba' is not installed; install polytask[trees]") from None

# Sums keep their order: a row gives the same bits alone, in a block, and after loading.
njit = numba.njit(cache=True, error_model="numpy", nogil=True)
# Sums may be reordered, for speed: only where one call site sees the same data in any case.
njit_reordered = numba.njit(
    cache=True, error_model="numpy", nogil=True, fastmath={"reassoc", "contract", "nsz"}
)
