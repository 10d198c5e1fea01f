"""The words of the phantom's reports (data only; `phantom_report` puts them together).

Braces are filled per finding: {side}, {size} (small ..), {grade} (mild ..), {adverb} (mildly ..), {where} (a name of
`PLACES`), {at} (a position), {mm}, {cm}. A phrase is (kind, text, facts): kind "a" a thing that is counted, "" one that
is not, "s" plural, "." a whole sentence. Facts are "entity@position=exists" separated by spaces; the finding's own (at
its positions) is always added, unless the facts name the finding themselves.
"""

PLACES = {
    "upper_right_lobe": ("right upper lobe",),
    "middle_right_lobe": ("right middle lobe",),
    "lower_right_lobe": ("right lower lobe",),
    "upper_left_lobe": ("left upper lobe",),
    "lower_left_lobe": ("left lower lobe",),
    **{
        f"{side}_{zone}_lung": (f"{side} {zone} lung", f"{side} {zone} lung zone")
        for side in ("left", "right")
        for zone in ("upper", "mid", "lower")
    },
}

SIZES = ("small", "moderate", "large")
GRADES = ("mild", "moderate", "severe")
ADVERBS = ("mildly", "moderately", "severely")

_LEADS = "lead@right_atrium=1 lead@right_ventricle=1"

PHRASES = {
    "effusion": [
        ("a", "{size} {side} pleural effusion", ""),
        ("a", "{size} {side}-sided pleural effusion", ""),
        ("a", "{size} pleural effusion on the {side}", ""),
    ],
    "effusion slight": [
        ("a", "{size} {side} pleural effusion", ""),
        ("a", "{size} {side}-sided pleural effusion", ""),
        (
            "a",
            "{size} {side} pleural effusion with blunting of the {side} costophrenic angle",
            "blunt@{side}_costophrenic=1",
        ),
    ],
    "effusion both": [
        ("s", "{size} bilateral pleural effusions", ""),
        ("s", "{size} bilateral effusions", ""),
        ("s", "{size} right and left pleural effusions", ""),
    ],
    "pneumothorax": [("a", "{size} {side} pneumothorax", ""), ("a", "{size} {side}-sided pneumothorax", "")],
    "pneumothorax apical": [
        ("a", "{size} {side} apical pneumothorax", ""),
        ("a", "{size} pneumothorax at the {side} apex", ""),
    ],
    "cardiomegaly": [
        ("", "{grade} cardiomegaly", ""),
        ("", "{grade} cardiac enlargement", ""),
        (".", "The heart is {adverb} enlarged", "enlarge@heart_size=1"),
        (".", "The cardiac silhouette is {adverb} enlarged", "enlarge@heart_size=1"),
    ],
    "hyperinflate": [
        ("", "hyperinflation of the lungs", ""),
        ("", "{grade} hyperinflation", ""),
        (".", "The lungs are hyperinflated", ""),
        (".", "The lungs are {adverb} hyperinflated", ""),
        (".", "The lungs are hyperinflated with flattening of the diaphragms", "tail_abnorm_obs@diaphragm_unspec=1"),
    ],
    "consolidation": [
        ("", "{where} consolidation", ""),
        ("", "dense consolidation in the {where}", ""),
        ("", "airspace consolidation in the {where}", ""),
        ("", "{where} consolidation with air bronchograms", ""),
        ("", "{where} consolidation, concerning for pneumonia", "pneumonia@unspecified=2"),
    ],
    "opacity": [
        ("a", "patchy opacity in the {where}", ""),
        ("a", "hazy opacity in the {where}", ""),
        ("", "ill-defined opacification of the {where}", ""),
        ("s", "patchy airspace opacities in the {where}", ""),
        ("a", "hazy opacity in the {where} which may represent pneumonia", "pneumonia@{at}=2"),
    ],
    "nodule": [
        ("a", "{mm} mm nodule in the {where}", ""),
        ("a", "round nodule in the {where}", ""),
        ("a", "{where} nodule", ""),
        ("a", "well-defined pulmonary nodule in the {where}", ""),
    ],
    "mass": [
        ("a", "{cm} cm mass in the {where}", ""),
        ("a", "{where} mass", ""),
        ("a", "spiculated mass in the {where}", ""),
        ("a", "large mass in the {where}", ""),
    ],
    "atelectasis": [
        ("", "linear atelectasis in the {where}", ""),
        ("", "{grade} {where} atelectasis", ""),
        ("s", "atelectatic changes in the {where}", ""),
        ("", "plate-like atelectasis in the {where}", ""),
    ],
    "atelectasis both": [
        ("", "bibasilar atelectasis", ""),
        ("", "{grade} bibasilar atelectasis", ""),
        ("", "linear atelectasis at the lung bases", ""),
    ],
    "edema": [("", "{grade} pulmonary edema", "edema@pulmonary=1")],
    "edema interstitium": [("", "{grade} interstitial edema", ""), ("", "interstitial edema", "")],
    "edema hilar_unspec": [("", "{grade} perihilar edema", "")],
    "calcification": [
        ("a", "calcified granuloma in the {where}", "tail_abnorm_obs@{at}=1"),
        ("s", "calcifications in the {where}", ""),
        ("", "clustered calcification in the {where}", ""),
        ("s", "calcified granulomas in the {where}", "tail_abnorm_obs@{at}=1"),
    ],
    "hernia": [
        ("a", "{size} retrocardiac hiatal hernia", ""),
        ("a", "{size} hiatal hernia in the retrocardiac region", ""),
        ("a", "{size} hiatal hernia", "hernia@unspecified=1"),
    ],
    "fracture": [
        ("s", "{side} rib fractures", ""),
        ("s", "displaced fractures of the {side} ribs", ""),
        ("s", "multiple {side} rib fractures", ""),
        ("s", "fractures of several {side} ribs", ""),
    ],
    "pacemaker": [
        (".", "A pacemaker overlies the {where}", ""),
        ("a", "pacemaker over the {where}", ""),
        (".", "Pacemaker over the {where} with leads in the right atrium and right ventricle", _LEADS),
    ],
    "tube": [
        (".", "The endotracheal tube terminates in the mid trachea", ""),
        ("a", "endotracheal tube in the trachea", ""),
        (".", "An endotracheal tube ends in the mid trachea", ""),
    ],
    "picc svc": [
        (".", "The {side} PICC terminates in the SVC", ""),
        (".", "{Side} PICC ends in the SVC", ""),
        ("a", "{side} PICC terminating in the SVC", ""),
    ],
    "picc cavoatrial_junction": [
        (".", "The {side} PICC terminates at the cavoatrial junction", ""),
        (".", "{Side} PICC ends at the cavoatrial junction", ""),
        ("a", "{side} PICC terminating at the cavoatrial junction", ""),
    ],
}

# What is denied together, in this order of a report: {part: {finding: (noun phrase, position of the denial)}}.
DENIED = {
    "device": {
        "tube": (("endotracheal tube",), "unspecified"),
        "picc": (("PICC",), "unspecified"),
        "pacemaker": (("pacemaker",), "unspecified"),
    },
    "heart": {"cardiomegaly": (("cardiomegaly", "cardiac enlargement"), "heart_size")},
    "lung": {
        "consolidation": (("focal consolidation", "consolidation"), "unspecified"),
        "opacity": (("focal opacity", "airspace opacity"), "unspecified"),
        "edema": (("pulmonary edema",), "pulmonary"),
        "atelectasis": (("atelectasis",), "unspecified"),
    },
    "focus": {
        "nodule": (("nodule", "suspicious nodule"), "unspecified"),
        "mass": (("mass",), "unspecified"),
        "calcification": (("calcification",), "unspecified"),
    },
    "volume": {"hyperinflate": (("hyperinflation",), "lung_volumes")},
    "pleura": {
        "effusion": (("pleural effusion", "effusion"), "pleural_unspec"),
        "pneumothorax": (("pneumothorax",), "pleural_unspec"),
    },
    "bone": {"fracture": (("rib fracture", "displaced rib fracture", "acute rib fracture"), "rib")},
    "belly": {"hernia": (("hiatal hernia",), "unspecified")},
}

# Other ways to deny one finding: (sentence, facts).
DENIALS = {
    "cardiomegaly": [
        ("Heart size is normal.", "normal@heart_size=1 cardiomegaly@heart_size=0 enlarge@heart_size=0"),
        ("The heart is normal in size.", "normal@heart_size=1 cardiomegaly@heart_size=0 enlarge@heart_size=0"),
        ("The heart is not enlarged.", "cardiomegaly@heart_size=0 enlarge@heart_size=0"),
    ],
    "hyperinflate": [("The lungs are not hyperinflated.", "hyperinflate@lung_volumes=0")],
    "fracture": [
        ("The osseous structures are intact.", "intact@other=1 fracture@other=0"),
        ("Bony structures are intact.", "intact@other=1 fracture@other=0"),
    ],
    "tube": [("The endotracheal tube has been removed.", "tube@unspecified=0")],
    "picc": [("The PICC has been removed.", "picc@unspecified=0")],
}

# Normal sentences: (part, findings that forbid it, sentences, facts).
NORMAL = [
    (
        "lung",
        {
            "consolidation",
            "opacity",
            "edema",
            "atelectasis",
            "nodule",
            "mass",
            "calcification",
            "effusion",
            "pneumothorax",
        },
        ("The lungs are clear.", "Lungs are clear."),
        "clear@lung_volumes=1 opacity@lung_volumes=0 consolidation@lung_volumes=0 infiltrate@lung_volumes=0",
    ),
    (
        "heart",
        {"cardiomegaly", "hernia", "mass"},
        ("Mediastinal contours are unremarkable.", "The mediastinum is unremarkable."),
        "unremarkable@mediastinal=1 widen@mediastinal=0",
    ),
    (
        "pleura",
        {"effusion", "hyperinflate"},
        ("Costophrenic angles are sharp.",),
        "sharp@costophrenic_unspec=1 blunt@costophrenic_unspec=0",
    ),
]

UNREMARKABLE = [
    ("No acute cardiopulmonary process.", "process@cardiopulmonary=0"),
    ("No acute cardiopulmonary abnormality.", "abnormality@cardiopulmonary=0"),
    ("Normal chest radiograph.", "normal@unspecified=1"),
]

PRESENT_FRAMES = {
    "a": ("There is {a} {np}{prior}.", "{A} {np} is seen{prior}.", "{Np}{prior}.", "{A} {np} is present{prior}."),
    "": ("There is {np}{prior}.", "{Np} is noted{prior}.", "{Np}{prior}.", "{Np} is present{prior}."),
    "s": ("There are {np}{prior}.", "{Np} are seen{prior}.", "{Np}{prior}."),
    ".": ("{Np}{prior}.",),
}
UNCERTAIN_FRAMES = {
    "a": ("Possible {np}.", "There may be {a} {np}.", "{A} {np} cannot be excluded.", "Questionable {np}."),
    "": ("Possible {np}.", "There may be {np}.", "{Np} cannot be excluded."),
    "s": ("Possible {np}.", "There may be {np}.", "Questionable {np}."),
}
DENIAL_FRAMES = (
    "No {list}.",
    "There is no {list}.",
    "No evidence of {list}.",
    "No {list} is seen.",
    "No {list} is identified.",
)
PRIOR = (
    ", unchanged from prior",
    ", new since the prior study",
    ", unchanged compared to the prior radiograph",
    ", not seen on the prior study",
)
INDICATIONS = (
    "Shortness of breath.",
    "Chest pain.",
    "Cough and fever.",
    "Preoperative evaluation.",
    "Follow-up.",
    "Trauma.",
)
COMPARISONS = ("None.", "Prior chest radiograph.", "Prior study.")
