from ._app import app as app
