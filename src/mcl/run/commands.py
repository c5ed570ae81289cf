"""Every command once: where its settings and its function are. Imports nothing, so that ``mcl --help`` is quick."""

from __future__ import annotations

#: commands that read labels, which ``mcl.run.annotations`` can do ahead
LABELLED = ("finetune", "evaluate")
# name -> (module of the settings, class, module of the function, function, one line)
COMMANDS: dict[str, tuple[str, str, str, str, str]] = {
    "pretrain": ("mcl.config.pretrain", "PretrainSettings", "mcl.run.pretrain", "pretrain", "unlabeled images -> pre-trained trunk"),
    "finetune": ("mcl.config.finetune", "FinetuneSettings", "mcl.run.finetune", "finetune", "trunk + boxes -> detector and its AP"),
    "evaluate": ("mcl.config.finetune", "EvaluateSettings", "mcl.run.evaluate", "evaluate", "AP of a fine-tuned detector"),
    "predict": ("mcl.config.predict", "PredictSettings", "mcl.run.predict", "predict", "what a detector finds on images or in a video"),
    "compare": ("mcl.config.compare", "CompareSettings", "mcl.run.compare", "compare", "many trainings from one study, with intervals"),
    "report": ("mcl.config.report", "ReportSettings", "mcl.run.report", "report", "runs and studies as one HTML page"),
    "export": ("mcl.config.export", "ExportSettings", "mcl.run.export", "export", "trunk -> weights for other libraries"),
    "methods": ("mcl.config.methods", "MethodsSettings", "mcl.run.methods", "methods", "pre-training methods and what they cost"),
    "models": ("mcl.config.models", "ModelsSettings", "mcl.run.models", "models", "backbones that a trunk can have"),
    "doctor": ("mcl.config.doctor", "DoctorSettings", "mcl.run.doctor", "doctor", "how a recipe would run on this machine"),
    "recipes": ("mcl.config.recipes", "RecipesSettings", "mcl.run.recipes", "recipes", "shipped settings: list, show, compare"),
    "schema": ("mcl.config.schema", "SchemaSettings", "mcl.run.schema", "schema", "JSON schema of a settings file, for editors"),
    "push": ("mcl.config.push", "PushSettings", "mcl.run.push", "push", "a backbone in timm's form -> Hugging Face hub"),
    "demo": ("mcl.config.demo", "DemoSettings", "mcl.run.demo", "demo", "the whole path on an embedded data set"),
    "data demo": ("mcl.config.data", "DataDemoSettings", "mcl.run.data", "data_demo", "write the embedded demo data set"),
    "data trees": ("mcl.config.data", "DataTreesSettings", "mcl.run.data", "data_trees", "write the trees data set (deepforest)"),
    "data compose": ("mcl.config.data", "DataComposeSettings", "mcl.run.data", "data_compose", "scenes from cut-outs and backgrounds"),
    "data check": ("mcl.config.data", "DataCheckSettings", "mcl.run.check", "data_check", "what is in labels, and what is wrong with them"),
    "data convert": ("mcl.config.data", "DataConvertSettings", "mcl.run.convert", "data_convert", "VOC, LVIS, Cityscapes or YOLO labels -> COCO JSON"),
    "data subset": ("mcl.config.data", "DataSubsetSettings", "mcl.run.convert", "data_subset", "part of labels, as 1 % of COCO -> COCO JSON"),
    "bench step": ("mcl.config.bench", "BenchStepSettings", "mcl.run.bench", "bench_step", "time a training step, side by side"),
    "bench data": ("mcl.config.bench", "BenchDataSettings", "mcl.run.bench", "bench_data", "images/s of the loader and of JPEG decoding"),
    "bench loop": ("mcl.config.bench", "BenchLoopSettings", "mcl.run.bench", "bench_loop", "share of a run that is not the model's step"),
    "bench scale": ("mcl.config.bench", "BenchScaleSettings", "mcl.run.bench", "bench_scale", "cost of many GPUs, computed"),
}  # fmt: skip
