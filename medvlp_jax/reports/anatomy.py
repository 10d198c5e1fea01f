"""Anatomy of the 51 positions: words by group, and how a group and a side make positions."""

SIDES = {
    ("left",): ["left|lt|leftward|l", "left sided|side"],
    ("right",): ["right|rt|rightward|r", "right sided|side"],
    ("left", "right"): ["bilateral|bilaterally|both|bilat", "b / l"],
}

# group: (phrases in the notation of `lexicon`, position without a side, left, right, both sides); one position stands
# for all. Lungs without a side are `lung_volumes`, as in MedKLIP's table of landmarks.
_ONE = {
    "trachea": (["trachea|tracheal", "tracheal air column"], ["trachea"]),
    "heart": (["heart|cardiac|cardiothoracic", "cardiothoracic ratio", "cardiac silhouette size",
               "heart|cardiac size|silhouette|shadow|contour|apex|outline|configuration"], ["heart_size"]),
    "heart border": (["heart|cardiac border|margin"], ["heart_border"]),
    # This silhouette is the heart's and the mediastinum's.
    "cardiomediastinum": (["cardiomediastinal|cardiomediastinum", "cardiomediastinal silhouette|contour|size|structure",
                           "cardio mediastinal silhouette|contour?"], ["mediastinal", "heart_size"]),
    "retrocardiac": (["retrocardiac", "retrocardiac region|area|space"], ["retrocardiac"]),
    "lingula": (["lingula|lingular", "lingular segment|region"], ["upper_left_lobe"]),
    "left lower lobe": (["lll"], ["lower_left_lobe"]),
    "left upper lobe": (["lul"], ["upper_left_lobe"]),
    "right lower lobe": (["rll"], ["lower_right_lobe"]),
    "right middle lobe": (["rml"], ["middle_right_lobe"]),
    "right upper lobe": (["rul"], ["upper_right_lobe"]),
    "both hila": (["bihilar"], ["left_hilar", "right_hilar"]),
    "volumes": (["lung|inspiratory? volume|vol", "volume|vol"], ["lung_volumes"]),
    "cardiophrenic": (["cardiophrenic", "cardiophrenic angle|sulcus"], ["cardiophrenic_sulcus"]),
    "mediastinum": (["mediastinum|mediastinal|paratracheal|paramediastinal|hilomediastinal",
                     "mediastinal contour|silhouette|structure|width|border|margin"], ["mediastinal"]),
    "spine": (["spine|spinal|vertebra|vertebral|thoracolumbar|midthoracic|endplate|paraspinal", "vertebral body",
               "t spine", "thoracic|lumbar|dorsal|cervical|thoracolumbar spine|vertebra", "disc|disk space",
               "thoracic|lumbar vertebral? body", "intervertebral disc|disk? space?"], ["spine"]),
    "clavicle": (["clavicle|clavicular"], ["clavicle"]),
    "rib": (["rib|ribcage", "rib cage"], ["rib"]),
    "abdomen": (["stomach|gastric|abdomen|abdominal|bowel|quadrant|esophagogastric", "upper quadrant|abdomen", "colon"],
                ["stomach"]),
    "aorta": (["aorta|aortic", "thoracic aorta", "aortic knob|arch|knuckle|contour"], ["aorta"]),
    "svc": (["svc", "superior vena cava"], ["svc"]),
    "interstitium": (["interstitial|interstitium|septal|bronchovascular|peribronchial"], ["interstitium"]),
    "parenchyma": (["parenchymal|parenchyma", "lung parenchyma"], ["parenchymal"]),
    "cavoatrial": (["cavoatrial|atriocaval junction?", "caval|cavo atrial junction", "svc / ra? junction",
                    "svc right? atrial junction"], ["cavoatrial_junction"]),
    "cardiopulmonary": (["cardiopulmonary|intrathoracic"], ["cardiopulmonary"]),
    "pulmonary": (["pulmonary|pulm"], ["pulmonary"]),
    "vessels": (["vasculature|vascularity|vessel", "pulmonary vasculature|vascularity|vessel|vascular|artery|vein|___",
                 "central vessel|vasculature|vascularity|vascular|pulmonary", "central pulmonary vessel|vasculature"],
                ["pulmonary"]),
    "bones": (["bone|bony|osseous|osseus|skeletal|skeleton|shoulder|humerus|humeral|scapula|scapular|sternum|sternal|"
               "acromioclavicular|glenohumeral|hip|knee|joint|ankle|femur|femoral|elbow|wrist|pelvis",
               "bony|osseous|skeletal structure|thorax", "bony structure of the thorax|chest", "ac joint"], ["other"]),
    "soft tissue": (["soft tissue", "subcutaneous|axilla|axillary|breast|neck", "chest wall"], ["other"]),
    "vascular": (["vascular"], ["other"]),
    "elsewhere": (["carina|bronchus|bronchi|bronchial|airway|esophagus|esophageal|coronary|brachiocephalic|"
                   "retrosternal|valve|mitral|pericardial|azygos|thyroid|gallbladder|carotid|renal|liver|spleen|"
                   "splenic",
                   "left atrium|ventricle", "aortic valve", "vena cava"], ["other"]),
}

_SIDED = {
    "hilum": (["hilum|hila|hilar|perihilar|parahilar|infrahilar|suprahilar", "hilar region|contour|structure"],
              ["hilar_unspec"], ["left_hilar"], ["right_hilar"]),
    "pleura": (["pleural|pleura|subpleural|fissure|fissural|interlobar", "pleural space|surface|margin",
                "minor|major|horizontal|oblique fissure"],
               ["pleural_unspec"], ["left_pleural"], ["right_pleural"]),
    "diaphragm": (["diaphragm|hemidiaphragm|diaphragmatic", "hemi diaphragm"],
                  ["diaphragm_unspec"], ["left_diaphragm"], ["right_diaphragm"]),
    "costophrenic": (["costophrenic|sulcus", "costophrenic angle|sulcus|recess|___", "cp angle",
                      "costo phrenic angle?"],
                     ["costophrenic_unspec"], ["left_costophrenic"], ["right_costophrenic"]),
    "lower lobe": ([], ["lung_bases"], ["lower_left_lobe"], ["lower_right_lobe"]),
    "mid lobe": ([], ["middle_right_lobe"], ["left_mid_lung"], ["middle_right_lobe"]),
    "upper lobe": ([], ["lung_apices"], ["upper_left_lobe"], ["upper_right_lobe"]),
    "lower lung": (["base|basal|basilar|basis|bibasilar|bibasal|posterobasal", "lung base", "basilar region"],
                   ["lung_bases"], ["left_lower_lung"], ["right_lower_lung"], ["lung_bases"]),
    "mid lung": (["midlung|midzone", "midlung zone|field"], ["other"], ["left_mid_lung"], ["right_mid_lung"]),
    "upper lung": ([], ["lung_apices"], ["left_upper_lung"], ["right_upper_lung"]),
    "apex": (["apex|apical|biapical|apicolateral", "lung apex", "apical region"],
             ["lung_apices"], ["left_apical_lung"], ["right_apical_lung"], ["lung_apices"]),
    "lung": (["lung|hemithorax", "lung field|zone"], ["lung_volumes"], ["left_lung_unspec"], ["right_lung_unspec"]),
    "atrium": (["atrium|atrial", "ra"], ["other"], ["other"], ["right_atrium"]),
    "ventricle": (["ventricle|ventricular", "rv"], ["other"], ["other"], ["right_ventricle"]),
}

GROUPS = {name: entry[0] for name, entry in (_ONE | _SIDED).items()}

# A finding without a place of its own may take one of these from the finding it is named with.
LUNG_ZONES = frozenset({"lower lobe", "mid lobe", "upper lobe", "lower lung", "mid lung", "upper lung", "apex", "lung",
                        "lingula", "retrocardiac", "hilum", "both hila", "left lower lobe", "left upper lobe",
                        "right lower lobe", "right middle lobe", "right upper lobe"})
# Said of any lung finding: a more exact place replaces them.
GENERIC = frozenset({"pulmonary", "parenchyma", "lung", "cardiopulmonary", "vascular"})
# A nodule "overlying the left 5th rib" is seen through the bone, not in it.
SEEN_THROUGH = frozenset({"rib", "clavicle", "bones", "spine"})

_LEVELS = {"upper": "upper", "lower": "lower", "mid|middle": "mid", "inferior": "lower", "superior": "upper"}
_LEVEL_NOUNS = {"lobe": "lobe", "lung|zone|field|hemithorax|thorax|third": "lung", "lung zone|field|third": "lung"}


def level_phrases() -> list[tuple[str, tuple[str, ...]]]:
    """(phrase, groups) of "lower lobe", "mid lung zone" and of pairs such as "middle and lower lobe"."""
    out = []
    for noun, kind in _LEVEL_NOUNS.items():
        for word, level in _LEVELS.items():
            out.append((f"{word} {noun}", (f"{level} {kind}",)))
            out += [(f"{word} and|or|to|/|through {other} {noun}", (f"{level} {kind}", f"{second} {kind}"))
                    for other, second in _LEVELS.items() if second != level]
            out += [(f"{word} {noun} and|or {other} {noun}", (f"{level} {kind}", f"{second} {kind}"))
                    for other, second in _LEVELS.items() if second != level]
    return out


def resolve(group: str, sides: frozenset) -> list[str]:
    """Positions of a group on the given sides ("left", "right", both or none).

    >>> resolve("lower lobe", frozenset({"right"}))
    ['lower_right_lobe']
    """
    if group in _ONE:
        return _ONE[group][1]
    _, none, left, right, *both = _SIDED[group]
    if not sides:
        return none
    if len(sides) == 2:
        return both[0] if both else left + right
    return left if "left" in sides else right
