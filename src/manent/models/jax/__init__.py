"""JAX functions as models; needs the extra `jax`."""

from manent.models.jax.model import JaxModel

__all__ = ["JaxModel"]
