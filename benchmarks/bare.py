"""fal-client as it comes, but that the emulator answers for fal: what the product is compared with."""

from __future__ import annotations

import os
from functools import cached_property

import fal_client
import httpx

ENDPOINT = "fal-ai/kling-video/v2.1/master/text-to-video"
FAL = ("fal.run", "falrun.com", "fal.ai")


class Routed(httpx.BaseTransport):
    """Sends what is for fal's hosts to the emulator, the Host header kept."""

    def __init__(self, base_url: str) -> None:
        self.base = httpx.URL(base_url)
        self.inner = httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.host.endswith(FAL):
            base = self.base
            request.url = request.url.copy_with(scheme=base.scheme, host=base.host, port=base.port)
        return self.inner.handle_request(request)


class Client(fal_client.SyncClient):
    """fal-client, its requests routed; all else as it comes."""

    @cached_property
    def _client(self) -> httpx.Client:
        http = super()._client
        http._transport = Routed(os.environ["EMULATOR"])
        return http
