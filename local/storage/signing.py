"""The tokens in signed URLs: one action on one object, until a moment.

They are signed with a key of their own, derived from the stack's secret, so that no such token passes for a sign-in
and no sign-in for one of them; the action in it keeps a token to download from being used to upload.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from typing import Any, Literal

import jwt

from local.keys import Keys
from local.storage.errors import invalid_signature, invalid_token

Action = Literal["download", "upload"]
Claims = dict[str, Any]


class UrlSigner:
    def __init__(self, keys: Keys) -> None:
        self._key = hmac.new(keys.jwt_secret.encode(), b"storage signed urls", hashlib.sha256).digest()

    def sign(self, action: Action, url: str, *, seconds: int, claims: Claims | None = None) -> str:
        """A token for `url`, which is `<bucket>/<key>`."""
        now = int(time.time())
        body = {**(claims or {}), "url": url, "action": action, "iat": now, "exp": now + seconds}
        return jwt.encode(body, self._key, algorithm="HS256")

    def verify(self, action: Action, token: str, url: str) -> Claims:
        """The claims of a token for this action on this object. There is no leeway: a URL ends when it was said to.

        Raises:
            StorageError: InvalidJWT, or InvalidSignature for another object or action.
        """
        try:
            claims: Claims = jwt.decode(token, self._key, algorithms=["HS256"], options={"require": ["exp"]})
        except jwt.ExpiredSignatureError as exc:
            raise invalid_token('"exp" claim timestamp check failed') from exc
        except jwt.InvalidSignatureError as exc:
            raise invalid_token("signature verification failed") from exc
        except jwt.InvalidTokenError as exc:
            raise invalid_token("Invalid Compact JWS") from exc
        if claims.get("url") != url or claims.get("action") != action:
            raise invalid_signature("Invalid signature")
        return claims
