"""Miniatures of official layouts with all their columns and habits: CheXpert (Plus), ChestX-ray14, PadChest, Open-I."""
import csv
import gzip
import io

import cv2
import numpy as np

from medvlp_jax.input.datasets.labels import CHEXPERT
from tests.data.miniature import picture

PLUS = ("path_to_image,path_to_dcm,frontal_lateral,ap_pa,deid_patient_id,patient_report_date_order,report,section_narrative,"
        "section_clinical_history,section_history,section_comparison,section_technique,section_procedure_comments,"
        "section_findings,section_impression,section_end_of_impression,section_summary,sex,race,ethnicity,interpreter_needed,"
        "insurance_type,recent_bmi,deceased").split(",")  # fmt: skip
PADCHEST = (",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,ViewPosition_DICOM,Projection,"
            "MethodProjection,Pediatric,Modality_DICOM,Manufacturer_DICOM,PhotometricInterpretation_DICOM,"
            "PixelRepresentation_DICOM,PixelAspectRatio_DICOM,SpatialResolution_DICOM,BitsStored_DICOM,WindowCenter_DICOM,"
            "WindowWidth_DICOM,Rows_DICOM,Columns_DICOM,XRayTubeCurrent_DICOM,Exposure_DICOM,ExposureInuAs_DICOM,ExposureTime,"
            "RelativeXRayExposure_DICOM,ReportID,Report,MethodLabel,Labels,Localizations,LabelsLocalizationsBySentence,"
            "labelCUIS,LocalizationsCUIS").split(",")  # fmt: skip
OPENI = """<?xml version="1.0" encoding="utf-8"?><eCitation><meta type="rr"/><uId id="CXR{n}"/><pmcId id="{n}"/>
<docSource>CXR</docSource><IUXRId id="{n}"/><licenseType>open-access</licenseType>
<ccLicense>byncnd</ccLicense><articleDate>2013-08-01</articleDate><publisher>Indiana University</publisher>
<title>Indiana University Chest X-ray Collection</title><specialty>pulmonary diseases</specialty><subset>CXR</subset>
<MedlineCitation Owner="Indiana University" Status="supplied by publisher"><Article PubModel="Electronic">
<Journal><JournalIssue><PubDate><Year>2013</Year></PubDate></JournalIssue></Journal>
<ArticleTitle>Indiana University Chest X-ray Collection</ArticleTitle><Abstract>
<AbstractText Label="COMPARISON">XXXX.</AbstractText><AbstractText Label="INDICATION">Positive TB test</AbstractText>
<AbstractText Label="FINDINGS">{findings}</AbstractText><AbstractText Label="IMPRESSION">{impression}</AbstractText>
</Abstract><Affiliation>Indiana University</Affiliation></Article></MedlineCitation>
<MeSH>{mesh}<automatic>edema</automatic></MeSH>{images}</eCitation>"""
OPENI_IMAGE = """<parentImage id="{name}"><figureId>F{k}</figureId><caption>Xray Chest PA and Lateral</caption>
<panel type="single"><url>/hadoop/storage/radiology/extract/{name}.jpg</url><imgModality>7</imgModality><region type="panel">
<globalImageFeatures><CEDD>f2p0k1291</CEDD></globalImageFeatures></region></panel></parentImage>"""


def image(path, seed: int, deep: bool = False, kind: str = ".png") -> None:
    """A small picture at `path`, in 16 bits where `deep`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = picture(seed, 60, 48)
    path.write_bytes(cv2.imencode(kind, pixels.astype(np.uint16) * 200 if deep else pixels)[1].tobytes())


def text(header, rows) -> bytes:
    """A CSV of dicts, what they do not hold left blank."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(header)
    writer.writerows([row.get(name, "") for name in header] for row in rows)
    return out.getvalue().encode()


def chexpert(root, patients: int = 6, plus: bool = True) -> None:
    """CheXpert-v1.0-small: each patient with a study of a frontal and a lateral image and, every other, a second of one; the
    last patient is valid.csv's. The table of CheXpert Plus has a report of each study but the last patient's."""
    tables, told = {"train": [], "valid": []}, []
    for p in range(1, patients + 1):
        part = "valid" if p == patients else "train"
        for s, views in enumerate((("frontal", "lateral"), ("frontal",))[: 1 + p % 2], 1):
            for v, view in enumerate(views, 1):
                path = f"{part}/patient{p:05d}/study{s}/view{v}_{view}.jpg"
                image(root / "CheXpert-v1.0-small" / path, 10 * p + v, kind=".jpg")
                row = {"Path": f"CheXpert-v1.0-small/{path}", "Sex": "Female", "Age": 60 + p,
                       "Frontal/Lateral": view.capitalize(), "AP/PA": "AP" if view == "frontal" else ""}  # fmt: skip
                tables[part].append({**row, "Pleural Effusion": "1.0", "Edema": "-1.0", "Pneumothorax": "0.0"})
                if part == "train":
                    told.append({"path_to_image": path, "path_to_dcm": path.replace(".jpg", ".dcm"),
                                 "section_findings": f'Small "left" effusion of {p}.{s} cm,\nno edema.',
                                 "section_impression": "Pleural effusion." if s == 1 else "", "section_history": "Cough.",
                                 "deid_patient_id": f"patient{p:05d}"})  # fmt: skip
    header = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT]
    for part, rows in tables.items():
        (root / "CheXpert-v1.0-small" / f"{part}.csv").write_bytes(text(header, rows))
    if plus:
        (root / "df_chexpert_plus_240401.csv").write_bytes(text(PLUS, told))


def chestxray14(root) -> None:
    """The twelve folders of images, the header with its brackets and trailing commas, the lists."""
    rows = ["Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,OriginalImage[Width,"
            "Height],OriginalImagePixelSpacing[x,y],"]  # fmt: skip
    for p in range(1, 13):
        for k in range(2):
            name, found = f"{p:08d}_{k:03d}.png", ("No Finding", "Cardiomegaly|Emphysema", "Hernia")[(p + k) % 3]
            image(root / f"images_{p:03d}" / "images" / name, 2 * p + k)
            rows.append(f"{name},{found},{k},{p},{50 + p},M,{'PA' if k else 'AP'},2682,2749,0.143,0.143,")
    (root / "Data_Entry_2017_v2020.csv").write_text("\n".join(rows) + "\n")
    (root / "BBox_List_2017.csv").write_text("Image Index,Finding Label,Bbox [x,y,w,h],,,,,\n"
                                             "00000001_000.png,Cardiomegaly,12.0,18.5,24.0,20.0,,,\n")
    tested = [f"{p:08d}_{k:03d}.png" for p in (11, 12) for k in range(2)]
    (root / "test_list.txt").write_text("\n".join(tested))
    (root / "train_val_list.txt").write_text("")


def padchest(root) -> None:
    """The zips unpacked to folders by number, 16-bit images, the gzipped table with all columns."""
    rows = []
    for p in range(1, 9):
        for k, view in enumerate(("PA", "L")):
            name = f"2168404610812042189971{p}{k}_01-0{p}-0{k}.png"
            image(root / str(p % 3) / name, 2 * p + k, deep=True)
            found = ("['pleural effusion', 'cardiomegaly']", "['normal']", "['COPD signs', 'unchanged', ' exclude ']", "[]")
            rows.append({"": p, "ImageID": name, "ImageDir": p % 3, "StudyID": f"s{p}", "PatientID": f"p{p}",
                         "PatientBirth": "1950.0", "PatientSex_DICOM": "F", "Projection": view, "Labels": found[p % 4],
                         "Report": "derram pleural izquierd .", "MethodLabel": "Physician" if p < 3 else "RNN_model"})
    (root / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz").write_bytes(gzip.compress(text(PADCHEST, rows)))


def openi(root) -> None:
    """ecgen-radiology/ beside the folder of images, in their proportions; a report without findings, one of blanks."""
    (root / "ecgen-radiology").mkdir(parents=True)
    for n, (findings, impression, mesh, images) in enumerate([
        ("The cardiac silhouette is enlarged. No pneumothorax &lt;XXXX&gt;.", "Cardiomegaly.", "Cardiomegaly/mild",
         {"CXR1_1_IM-0001-3001": (62, 51), "CXR1_1_IM-0001-4001": (42, 51)}),  # the lateral first
        ("", "No acute disease.", "normal", {"CXR2_IM-0652-1001": (51, 51), "CXR2_IM-0652-2001": (51, 51)}),
        ("XXXX", "", "Pulmonary Atelectasis/base/left   \t \n;x",
         {"CXR3_IM-1384-1001": (42, 51), "CXR3_IM-1384-1002": (62, 51)}),
        ("Clear lungs.", "Normal chest.", "normal", {"CXR4_IM-2050-0001-0002": (51, 51)}),  # nothing tells its view
    ], 1):  # fmt: skip
        parts = ""
        for k, (name, shape) in enumerate(images.items(), 1):
            path = root / "NLMCXR_png" / f"{name}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(cv2.imencode(".png", picture(3 * n + k, *shape))[1].tobytes())
            parts += OPENI_IMAGE.format(name=name, k=k)
        body = OPENI.format(n=n, findings=findings, impression=impression, mesh=f"<major>{mesh}</major>", images=parts)
        (root / "ecgen-radiology" / f"{n}.xml").write_text(body, encoding="utf-8")


def chexlocalize(root, by_study: bool = False) -> None:
    """CheXlocalize's CheXpert/ beside CheXpert: the test's own header, and a folder of its own."""
    names = [f"test/patient6474{p}/study1/view{v}_{w}.jpg" for p in range(2) for v, w in ((1, "frontal"), (2, "lateral"))]
    for k, name in enumerate(names):
        image(root / "CheXpert" / name, 70 + k, kind=".jpg")
    rows = [{"Path": name, **dict.fromkeys(CHEXPERT, "0"), "Edema": str(k % 2)} for k, name in enumerate(names)]
    if by_study:
        rows = [{**dict.fromkeys(CHEXPERT, "0"), "Study": f"CheXpert-v1.0/test/patient6474{p}/study1", "Edema": str(p)}
                for p in (0, 1)]  # fmt: skip
    name = "groundtruth.csv" if by_study else "test_labels.csv"
    (root / "CheXpert" / name).write_bytes(text(["Study" if by_study else "Path", *CHEXPERT], rows))
