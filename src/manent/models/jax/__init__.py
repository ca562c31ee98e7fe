"""JAX functions as models. Needs the extra `jax`."""

from manent.models.jax.model import JaxModel

__all__ = ["JaxModel"]
