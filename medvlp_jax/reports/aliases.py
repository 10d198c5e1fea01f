"""Names that public data sets use for findings, by the entity they stand for (data only; `vocab.meanings` reads it).

Four tables, by what a label has to do with its entity, for presence, absence and doubt do not pass alike:
- SAME: another word for the entity. All three pass.
- NARROWER: a kind or a place of it ("COVID-19" of pneumonia). Presence and doubt pass, absence does not.
- BROADER: the entity is a part of what the label names ("Nodule/Mass"). Absence passes; presence becomes doubt.
- RELATED: the nearest entity, which scores the label in an evaluation. Nothing passes.
A label may stand in several rows ("Hydropneumothorax"); the first one scores it. An entity's own name is SAME.
"""

SAME = {
    "normal": ["No Finding", "No findings", "Normal", "Healthy", "normal chest"],
    "effusion": ["Effusion", "Pleural Effusion", "Pleural Effusions", "hydrothorax"],
    "opacity": ["Lung Opacity", "Opacity", "Lung opacities"],
    "pneumothorax": ["Pneumothorax"],
    "edema": ["Edema", "Oedema", "Pulmonary Edema", "Lung Edema", "EdemaSeverity"],
    "atelectasis": ["Atelectasis", "Atelectases", "Pulmonary Atelectasis"],
    "tube": ["Tube", "Tube, Inserted"],
    "consolidation": ["Consolidation", "Pulmonary Consolidation"],
    "abnormality": ["Abnormal"],
    "low": ["Hypoinflation", "Lung, Hypoinflated", "Low lung volumes", "hypoexpansion"],
    "pneumonia": ["Pneumonia"],
    "congestion": ["Pulmonary Congestion", "Vascular Congestion", "Congestion"],
    "catheter": ["Catheters, Indwelling", "Catheter"],
    "cardiomegaly": ["Cardiomegaly", "Enlarged heart", "cardiac enlargement"],
    "fracture": ["Fracture", "Fractures", "Fractures, Bone"],
    "tortuous": ["Tortuous Aorta", "aortic elongation"],
    "calcification": ["Calcification", "Calcinosis"],
    "prominence": ["Prominent"],
    "device": ["Support Devices", "Medical Device"],
    "clip": ["Surgical clips"],
    "elevation": ["Elevated diaphragm", "hemidiaphragm elevation"],
    "nodule": ["Nodule", "Nodules", "Lung Nodule", "Pulmonary Nodule"],
    # The published query for ChestX-ray14's finding; other walls thicken rarely enough on radiographs.
    "thicken": ["Pleural_Thickening", "Pleural Thickening", "Thickening"],
    "marking": ["Markings"],
    "scar": ["Cicatrix", "Scar", "Scarring"],
    "hyperinflate": ["Hyperinflation", "Lung, Hyperinflated", "hyperinflated lung"],
    "blunt": ["costophrenic angle blunting"],
    "loss": ["Volume Loss"],
    "widen": ["Widened mediastinum", "mediastinal enlargement"],
    "collapse": ["lung collapse"],
    "density": ["Density"],
    "emphysema": ["Emphysema", "Pulmonary Emphysema"],
    "mass": ["Mass"],
    "infiltrate": ["Infiltration", "Infiltrate", "Infiltrates", "Infiltrations"],
    "deformity": ["Deformity"],
    "hernia": ["Hernia"],
    "shift": ["Shift"],
    "stent": ["Stents"],
    "chf": ["Heart Failure", "Congestive heart failure", "heart insufficiency"],
    "redistribution": ["vascular redistribution"],
}

NARROWER = {
    "pneumothorax": ["Hydropneumothorax", "Hemopneumothorax"],
    "effusion": ["Hemothorax", "Empyema", "Hydropneumothorax", "Hemopneumothorax", "loculated pleural effusion",
                 "loculated fissural effusion", "costophrenic effusion"],
    "opacity": ["Airspace Opacity", "Airspace Disease", "GGO", "Ground Glass Opacity", "Ground glass", "alveolar pattern",
                "ground glass pattern", "increased density", "miliary opacities"],
    "atelectasis": ["laminar atelectasis", "total atelectasis", "lobar atelectasis", "round atelectasis", "atelectasis basal",
                    "segmental atelectasis"],
    "collapse": ["lobar collapse", "total atelectasis"],
    "tube": ["Endotracheal Tube", "ETT", "NG tube", "NGT", "Chest tube", "tracheostomy tube", "chest drain tube", "nsg tube",
             "gastrostomy tube", "nephrostomy tube", "ventriculoperitoneal drain tube"],
    "drainage": ["chest drain tube", "ventriculoperitoneal drain tube"],
    "abnormality": ["No Lung Opacity / Not Normal"],
    "enlarge": ["Enlarged Cardiac Silhouette", "Enlarged PA", "Aortic enlargement", "Pulmonary artery enlargement",
                "hilar enlargement", "vascular hilar enlargement", "aortic button enlargement"],
    "low": ["hypoexpansion basal"],
    "pneumonia": ["COVID-19", "COVID19", "COVID", "COVID-19 pneumonia", "SARS-CoV-2", "SARS", "MERS", "MERS-CoV", "Viral",
                  "Viral Pneumonia", "Bacterial", "Bacterial Pneumonia", "Pneumocystis", "PCP", "Streptococcus", "Klebsiella",
                  "Legionella", "Mycoplasma", "Chlamydophila", "E.Coli", "Varicella", "Influenza", "Lipoid",
                  "Bronchopneumonia", "atypical pneumonia"],
    "congestion": ["hilar congestion"],
    "catheter": ["CVC", "Central Venous Catheter", "Swan-Ganz Catheter", "central venous catheter via jugular vein",
                 "central venous catheter via subclavian vein", "central venous catheter via umbilical vein",
                 "reservoir central venous catheter"],
    "fracture": ["Rib fracture", "Clavicle fracture", "callus rib fracture", "humeral fracture", "vertebral fracture"],
    "air": ["Pneumoperitoneum", "pneumoperitoneo", "Pneumomediastinum", "Mediastinal Emphysema", "Subcutaneous Emphysema",
            "Subcutaneous air"],
    "fluid": ["air fluid level"],
    "tortuous": ["descendent aortic elongation", "ascendent aortic elongation", "supra aortic elongation"],
    "disease": ["Pulmonary Disease, Chronic Obstructive", "COPD", "copd signs", "Lung Diseases, Interstitial", "ILD",
                "Interstitial lung disease", "Granulomatous Disease"],
    "calcification": ["Calcified Granuloma", "Calcification of the Aorta", "Calcified aorta", "calcified densities",
                      "aortic atheromatosis", "calcified adenopathy", "calcified mediastinal adenopathy",
                      "calcified pleural plaques", "calcified pleural thickening", "calcified fibroadenoma",
                      "heart valve calcified", "coronary calcification"],
    "pacemaker": ["dual chamber device", "single chamber device"],
    "device": ["Implanted Medical Device", "Breast Implants", "mammary prosthesis", "electrical device", "dai",
               "dual chamber device", "single chamber device", "artificial heart valve", "artificial mitral heart valve",
               "artificial aortic heart valve"],
    "elevation": ["Diaphragmatic Eventration"],
    "nodule": ["Diffuse Nodule", "multiple nodules"],
    "degenerative": ["Spondylosis", "Osteophyte", "Arthritis", "Osteoarthritis", "Hyperostosis, Diffuse Idiopathic Skeletal",
                     "axial hyperostosis", "vertebral degenerative changes", "non axial articular degenerative changes",
                     "subacromial space narrowing"],
    "thicken": ["apical pleural thickening", "minor fissure thickening", "major fissure thickening", "fissure thickening",
                "pleural plaques", "calcified pleural plaques", "calcified pleural thickening"],
    "marking": ["bronchovascular markings", "interstitial pattern", "reticular interstitial pattern",
                "reticulonodular interstitial pattern"],
    "scar": ["fibrotic band"],
    "hyperinflate": ["air trapping", "flattened diaphragm"],
    "widen": ["superior mediastinal enlargement"],
    "density": ["calcified densities", "increased density"],
    "emphysema": ["Bullous Emphysema"],
    "mass": ["Lung Mass", "pulmonary mass", "mediastinal mass", "breast mass", "pleural mass", "soft tissue mass"],
    "deformity": ["Funnel Chest", "Pectus Carinatum", "pectum excavatum", "pectum carinatum", "chest wall deformity",
                  "thoracic cage deformation", "vertebral compression", "vertebral anterior compression"],
    "hernia": ["Hernia, Hiatal", "Hiatal hernia", "Hernia, Diaphragmatic"],
    "shift": ["Mediastinal shift", "mediastinic shift", "Tracheal deviation", "tracheal shift"],
    "stent": ["aortic endoprosthesis", "double J stent"],
    "lesion": ["Lung Lesion", "Other lesion", "Expansile Bone Lesions", "lytic bone lesion", "blastic bone lesion",
               "sclerotic bone lesion", "bone metastasis", "lung metastasis"],
    "hardware": ["Spinal Fusion", "Arthroplasty, Replacement", "osteosynthesis material", "humeral prosthesis"],
    "dilation": ["Aortic Aneurysm", "esophagic dilatation"],
    "redistribution": ["central vascular redistribution"],
    # The catch-all: everything in it is one kind of "other".
    "tail_abnorm_obs": [
        "Fibrosis", "Pulmonary Fibrosis", "Lung fibrosis", "Other disease", "Other diseases", "Tuberculosis", "TB",
        "tuberculosis sequelae", "Lung cavity", "Lung cyst", "Cavitation", "Cyst", "Cysts", "abscess", "Scoliosis", "Kyphosis",
        "Osteoporosis", "osteopenia", "Bone Diseases, Metabolic", "Granuloma", "Calcified Granuloma", "Sarcoidosis",
        "Bronchiectasis", "Atherosclerosis", "Lymphadenopathy", "adenopathy", "calcified adenopathy",
        "calcified mediastinal adenopathy", "Lucency", "Blister", "bullas", "Sclerosis", "Dislocations", "Pneumonectomy",
        "Hypertension, Pulmonary", "pulmonary hypertension", "pulmonary artery hypertension", "pulmonary venous hypertension",
        "Pericardial Effusion", "Cystic Fibrosis", "Bronchitis", "Bronchiolitis", "Mastectomy", "ARDS", "respiratory distress",
        "Epicardial Fat", "lipomatosis", "mediastinic lipomatosis", "Cholelithiasis", "goiter", "lymphangitis carcinomatosa",
        "lepidic adenocarcinoma", "asbestosis signs", "post radiotherapy changes", "chronic changes", "lung vascular paucity",
        "azygos lobe", "azygoesophageal recess shift", "kerley lines", "gynecomastia", "cervical rib", "dextrocardia",
        "right sided aortic arch", "Chilaiditi sign", "costochondral junction hypertrophy",
        "sternoclavicular junction hypertrophy"],
}

BROADER = {
    "nodule": ["Nodule/Mass"],
    "mass": ["Nodule/Mass"],
    # CheXpert's heading above cardiomegaly: radiologists tick it for a large heart as well.
    "widen": ["Enlarged Cardiomediastinum"],
    "thicken": ["Pleural Other"],  # thickening, plaques, scars, fibrothorax
    "pneumonia": ["Lung Infection", "Infection"],
    "clip": ["Surgical Instruments"],
}

RELATED = {
    "device": ["Foreign object", "Foreign Bodies", "Foreign body", "abnormal foreign body", "external foreign body", "metal"],
    "clip": ["Sutures", "suture material"],
    "hardware": ["prosthesis", "bone cement"],
    "stent": ["endoprosthesis"],
    "wire": ["sternotomy"],
    "mass": ["Lung tumor"],
    "pneumonia": ["Pneumonitis"],
    "consolidation": ["air bronchogram"],
    "hyperinflate": ["Lung, Hyperlucent"],
}

# No entity, on purpose: nothing that is wrong on this image.
NO_ENTITY = (
    "pseudonodule", "nipple shadow", "end on vessel", "obesity", "surgery", "surgery neck", "surgery heart", "surgery lung",
    "surgery breast", "surgery humeral",
)  # fmt: skip
# No entity either, and the list it stands in is not complete: the report says no more than that, or was not read.
INCOMPLETE = ("unchanged", "exclude", "suboptimal study", "No Indexing", "Technical Quality of Image Unsatisfactory")

# Qualifiers of a MeSH path whose heading is an anatomy: "Aorta/tortuous", "Costophrenic Angle/right/blunted".
QUALIFIERS = {
    "tortuous": ["tortuous"],
    "elevation": ["elevated"],
    "blunt": ["blunted"],
    "degenerative": ["degenerative"],
    "low": ["hypoinflation"],
    "hyperinflate": ["hyperdistention", "hyperinflation", "flattened"],
    "enlarge": ["enlarged", "enlargement"],
    "prominence": ["prominent"],
    "obscure": ["obscured"],
    "borderline": ["borderline"],
    "dilation": ["dilatation", "dilated"],
    "thicken": ["thickened"],
    "deformity": ["deformity"],
    "shift": ["shift"],
}
