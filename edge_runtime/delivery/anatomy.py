"""Body parts as coded regions (PS3.16 annex L and CID 4, SNOMED CT)."""

from __future__ import annotations

from edge_runtime.scan import Code

WHOLE_BODY = Code("38266002", "SCT", "Entire body")

_UNPAIRED = {
    "ABDOMEN": ("818981001", "Abdomen"),
    "ABDOMENPELVIS": ("818982008", "Abdomen and Pelvis"),
    "BRAIN": ("12738006", "Brain"),
    "CHEST": ("816094009", "Thorax"),
    "COCCYX": ("64688005", "Coccyx"),
    "CSPINE": ("122494005", "Cervical spine"),
    "CTSPINE": ("1217257000", "Cervico-thoracic spine"),
    "HEAD": ("69536005", "Head"),
    "HEADNECK": ("774007", "Head and Neck"),
    "HEART": ("80891009", "Heart"),
    "JAW": ("661005", "Jaw region"),
    "LIVER": ("10200004", "Liver"),
    "LSPINE": ("122496007", "Lumbar spine"),
    "LSSPINE": ("1217253001", "Lumbo-sacral spine"),
    "MAXILLA": ("70925003", "Maxilla"),
    "MEDIASTINUM": ("72410000", "Mediastinum"),
    "NECK": ("45048000", "Neck"),
    "NECKCHEST": ("417437006", "Neck and Chest"),
    "NOSE": ("45206002", "Nose"),
    "PANCREAS": ("15776009", "Pancreas"),
    "PELVIS": ("816092008", "Pelvis"),
    "PROSTATE": ("41216001", "Prostate"),
    "SKULL": ("89546000", "Skull"),
    "SPINE": ("421060004", "Spine"),
    "SPLEEN": ("78961009", "Spleen"),
    "SSPINE": ("54735007", "Sacrum"),
    "STERNUM": ("56873002", "Sternum"),
    "TLSPINE": ("1217256009", "Thoraco-lumbar spine"),
    "TSPINE": ("122495006", "Thoracic spine"),
    "UTERUS": ("35039007", "Uterus"),
}


def unpaired_region(body_part: str) -> Code:
    """The region of a body part that there is once.

    Args:
        body_part: Body Part Examined (0018,0015).

    Returns:
        The whole body for any other: nothing says which side of a pair was scanned, and a region must have a side.
    """
    found = _UNPAIRED.get(body_part)
    return WHOLE_BODY if found is None else Code(found[0], "SCT", found[1])
