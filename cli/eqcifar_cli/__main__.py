from ._app import app

app(prog_name="eqcifar")
