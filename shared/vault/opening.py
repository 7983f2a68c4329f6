"""What a step gets when a credential is opened for it.

The values live as long as the `async with` around them, and go nowhere but to the hosts that the credential names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

from shared.vault.secret import Secret


@dataclass(frozen=True, slots=True)
class OpenCredential:
    """A credential in plain form, for one step.

    Attributes:
        fields: What the person entered, by the provider's field names, such as `api_key` and `base_url`.
        allowed_hosts: The only hosts that the values may be sent to.
    """

    provider: str
    credential_id: UUID
    fields: Mapping[str, Secret] = field(repr=False)
    allowed_hosts: frozenset[str]
