import os


def keep_compilations():
    """Have JAX keep compiled programs, which it does not by default.

    In the cache folder, unless `JAX_COMPILATION_CACHE_DIR` names another; to be called
    before anything is computed.
    """
    import jax

    from eqcifar.data import cache_folder

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "jax"))
