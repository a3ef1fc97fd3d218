"""Errors as OpenAI's API gives them."""

from __future__ import annotations

import logging
from typing import Any

from edgekit.errors import BudgetError, ContextFullError, EdgekitError, GrammarError


class ApiError(EdgekitError):
    """A request that is refused, with the status of HTTP.

    Attributes:
        status: of HTTP.
        code: a short name of the cause; None where there is none.
        param: the member of the request that is wrong; None where it is none.
        headers: more headers of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.headers = status, code, param, headers or {}

    def body(self) -> dict[str, Any]:
        """The JSON object of the response."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def api_error(error: EdgekitError) -> ApiError:
    """An error of edgekit as one of the API."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ContextFullError):
        return ApiError(400, str(error), "context_length_exceeded")
    if isinstance(error, GrammarError):
        return ApiError(400, str(error), "invalid_grammar", "response_format")
    if isinstance(error, BudgetError):
        return ApiError(503, str(error), "over_budget")
    return ApiError(500, str(error))


def internal(error: Exception) -> ApiError:
    """An error that nobody expected: its cause goes to the log, and only this request fails."""
    logging.getLogger("edgekit.serve").error("unexpected error", exc_info=error)
    return ApiError(500, f"the server made a mistake ({type(error).__name__}); its log has more", "internal")


def bad(message: str, param: str | None = None) -> ApiError:
    """A request whose content is wrong."""
    return ApiError(400, message, "invalid_value", param)
