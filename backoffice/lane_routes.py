"""`/admin/lanes`: how the SAP systems' lanes stand, and what operators change about them."""

from flask import Blueprint, Response, jsonify

from backoffice.lanes import Lanes
from backoffice.order import body, invalid, order_of_request, require_operator
from bridge.errors import FieldError
from bridge.gcp.operators import OperatorAuthenticator
from bridge.storage.lane_control import MAX_HARD_CAP_CALLS


def register_lanes(admin: Blueprint, lanes: Lanes, authenticate: OperatorAuthenticator) -> None:
    """Add the routes; each change answers how the lane then stands."""

    def changed(sap_system: str, *, is_changed: bool) -> Response:
        lane = next(lane for lane in lanes.status() if lane["sap_system"] == sap_system)
        return jsonify(changed=is_changed, lane=lane)

    @admin.get("/lanes")
    def list_lanes() -> Response:
        require_operator(authenticate)
        return jsonify(data=lanes.status())

    @admin.post("/lanes/<sap_system>/hold")
    def hold(sap_system: str) -> Response:
        order = order_of_request(authenticate)
        body(())
        return changed(sap_system, is_changed=lanes.hold(sap_system, order))

    @admin.post("/lanes/<sap_system>/release")
    def release(sap_system: str) -> Response:
        order = order_of_request(authenticate)
        body(())
        return changed(sap_system, is_changed=lanes.release(sap_system, order))

    @admin.put("/lanes/<sap_system>/cap")
    def set_cap(sap_system: str) -> Response:
        order = order_of_request(authenticate)
        hard_cap = body({"hard_cap"}).get("hard_cap")
        if type(hard_cap) is not int or not 1 <= hard_cap <= MAX_HARD_CAP_CALLS:
            detail = f"must be a whole number from 1 to {MAX_HARD_CAP_CALLS}"
            raise invalid(FieldError("/hard_cap", detail))
        return changed(sap_system, is_changed=lanes.set_cap(sap_system, hard_cap, order))
