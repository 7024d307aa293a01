import os

# A quarter of an hour of compilation is worth keeping: XLA's own default keeps none.


def keep_compilations():
    """Have JAX keep compiled programs in the cache folder; call before computing."""
    import jax

    from eqcifar.data import cache_folder

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "jax"))
