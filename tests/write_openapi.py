"""Write docs/openapi.json as the gateway serves it: `make openapi`."""

from pathlib import Path

from gateway_stage import ISSUER, GatewayStage

from gateway.openapi_routes import as_text

DOCUMENT = Path(__file__).parents[1] / "docs" / "openapi.json"

if __name__ == "__main__":
    DOCUMENT.write_text(as_text(GatewayStage().app, ISSUER), encoding="utf-8")
