"""The HTTP face of a function: `endpoint` makes the ASGI application, `serverless` the Lambda handler of it."""

from shared.http.call import Answer, Call
from shared.http.endpoint import Endpoint, endpoint
from shared.http.serverless import serverless

__all__ = ["Answer", "Call", "Endpoint", "endpoint", "serverless"]
