"""EasyEdit's side of peer.py: the same records through its own functions, in a process of its own.

    python -m tests.benchmarks.peer_easyedit CASE FOLDER CHECKOUT

Only the modules of the editor in question are loaded, not its whole package, which asks for dozens
of others. Nothing of it is changed. What it keeps in module variables is filled in beforehand, so
that both sides begin alike: MEMIT's second moments, AlphaEdit's projection, which is made of them
in its own way, and their lists of contexts, here the bare prompt alone; R-ROME's contexts, which
are those of this side; WISE's prefixes, ten as here; the state of torch's generator from which
GRACE draws a value.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.benchmarks.peer_inputs import SEED, Inputs, Probe, Record, moments_file
from tests.benchmarks.peer_result import Result, is_each_alone, method_of
from trainables.seeding import trial_generators

_MODULES = {
    "ft_m": "models.ft",
    "lora": "models.lora",
    "grace": "models.grace",
    "rome": "models.rome",
    "r_rome": "models.r_rome",
    "memit": "models.memit",
    "alphaedit": "models.alphaedit",
    "wise": "models.wise",
    "answers": "evaluate.evaluate_utils",
}
# Which side is filled up: what each editor's arithmetic of positions needs.
_PADDING = {
    **{"ft_m": "left", "lora": "left", "grace": "right", "rome": "right", "r_rome": "right"},
    **{"memit": "right", "alphaedit": "right", "wise": "left"},
    "answers": "left",
}
_NAME = "llama"  # of the model; some editors look for other families in it


class Side:
    """The model, its tokenizer and one editor."""

    def __init__(self, case: str, inputs: Inputs, folder: Path, checkout: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        method = method_of(case)
        self.case, self.inputs, self._folder = case, inputs, folder
        self.settings = inputs.settings(method)
        self.editor = _part(checkout, _MODULES[method])
        self.model: Any = AutoModelForCausalLM.from_pretrained(inputs.model, dtype=torch.float32)
        self.model.eval()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(inputs.model)
        self.tokenizer.padding_side = _PADDING[method]
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self._before_answer: Callable[[Probe], None] = lambda _: None

    def edited(self) -> Result:
        """Edit the records as the case says, and what is answered then."""
        run = {
            "ft_m": self._ft,
            "lora": self._lora,
            "grace": self._grace,
            "rome": self._rome,
            "r_rome": self._rome,
            "memit": self._memit,
            "alphaedit": self._alphaedit,
            "wise": self._wise,
            "answers": self._asked,
        }[method_of(self.case)]
        self._answer(self.inputs.probes[0])  # so that no edit pays for a start
        seconds, answers = run()
        return Result.of(seconds, answers or [self._answer(probe) for probe in self.inputs.probes])

    def _ft(self) -> tuple[float, list[list[int]]]:
        records, settings = self.inputs.records, self.settings
        size = 1 if self.case == "ft_m" else len(records)
        modules = self.inputs.modules
        hyper = self.editor.FTHyperParams(
            layers=[settings["edit_layer"]],
            num_steps=settings["num_steps"],
            lr=settings["edit_lr"],
            weight_decay=0.0,
            kl_factor=0.0,
            norm_constraint=False,
            rewrite_module_tmp=f"{modules['down']}.weight",
            objective_optimization="target_new",
            batch_size=size,
            **self._common("FT"),
        )
        return self._put_back(self.editor.apply_ft_to_model, hyper, size)

    def _put_back(
        self, apply: Callable[..., Any], hyper: Any, size: int
    ) -> tuple[float, list[list[int]]]:
        """Edit so many records at a time, ask, and put the weights back."""
        records, answers, seconds = self.inputs.records, list[list[int]](), 0.0
        for start in range(0, len(records), size):
            some = records[start : start + size]
            requests = [_request(record) for record in some]
            begin = time.process_time()
            _, kept = apply(self.model, self.tokenizer, requests, hyper, return_orig_weights=True)
            seconds += time.process_time() - begin
            answers += [self._answer(probe) for record in some for probe in record.probes]
            with torch.no_grad():
                for name, weight in kept.items():
                    self.model.get_parameter(name).copy_(weight)
        return seconds, answers

    def _grace(self) -> tuple[float, list[list[int]]]:
        settings = self.settings
        layer = self.inputs.modules["down"].replace(".{}.", "[{}].").format(settings["edit_layer"])
        hyper = self.editor.GraceHyperParams(
            edit_lr=settings["edit_lr"],
            n_iter=settings["num_steps"],
            eps=settings["deferral_radius"],
            dist_fn="euc",
            val_init="cold",
            val_train="sgd",
            val_reg="None",
            reg="early_stop",
            replacement="replace_last",
            eps_expand="coverage",
            num_pert="8",
            dropout=0.0,
            inner_params=[f"{layer}.weight"],
            device="cpu",
            alg_name="GRACE",
            model_name=_NAME,
        )
        ours = trial_generators(SEED).init
        seconds = 0.0
        for record in self.inputs.records:
            torch.set_rng_state(ours.get_state())  # the value that it draws first is that of ours
            torch.rand(self.model.config.hidden_size, generator=ours)
            begin = time.process_time()
            self.editor.apply_grace_to_model(self.model, self.tokenizer, [_request(record)], hyper)
            seconds += time.process_time() - begin
        name = self.inputs.modules["down"].format(settings["edit_layer"])

        def ask_at_the_end(probe: Probe) -> None:
            # Otherwise it looks at the place where the last edit's prompt ended.
            self.model.get_submodule(name).key_id = probe.prompt_length - 1

        self._before_answer = ask_at_the_end
        return seconds, []

    def _lora(self) -> tuple[float, list[list[int]]]:
        records, settings = self.inputs.records, self.settings
        hyper = self.editor.LoRAHyperParams(
            lora_type="lora",
            layers=[],
            num_steps=settings["num_steps"],
            lr=settings["edit_lr"],
            weight_decay=0.0,
            kl_factor=0.0,
            norm_constraint=0.0,
            target_modules=self.inputs.modules["query_value"].split(),
            rank=settings["lora_rank"],
            lora_alpha=settings["lora_alpha"],
            lora_dropout=settings["dropout"],
            device="cpu",
            alg_name="LoRA",
            model_name=_NAME,
            batch_size=len(records),
        )
        requests = [_request(record) for record in records]
        size = 1 if is_each_alone(self.case) else len(records)
        seconds, answers, bare = 0.0, list[list[int]](), self.model
        for start in range(0, len(records), size):
            some = requests[start : start + size]
            begin = time.process_time()
            self.model, _ = self.editor.apply_lora_to_model(bare, self.tokenizer, some, hyper)
            seconds += time.process_time() - begin
            self.model.eval()
            if size == 1:
                answers += [self._answer(probe) for probe in records[start].probes]
                bare = self.model.unload()
        return seconds, answers

    def _rome(self) -> tuple[float, list[list[int]]]:
        name = method_of(self.case)
        is_rome = name == "rome"
        main: Any = importlib.import_module(f"{self.editor.__name__}.{name}_main")
        # A text is put into its template twice, and its own braces are none of them.
        texts = [text.replace("{", "{{{{").replace("}", "}}}}") for text in self.inputs.contexts]
        main.CONTEXT_TEMPLATES_CACHE = ["{}", *(f"{text} {{}}" for text in texts if not is_rome)]
        kind = self.editor.ROMEHyperParams if is_rome else self.editor.R_ROMEHyperParams
        hyper = kind(
            layers=[self.settings["edit_layer"]],
            context_template_length_params=[],
            mom2_adjustment=False,
            **self._of_vectors("ROME" if is_rome else "R-ROME"),
        )
        apply = getattr(self.editor, f"apply_{name}_to_model")
        if is_each_alone(self.case):
            return self._put_back(apply, hyper, 1)
        seconds = 0.0
        for record in self.inputs.records:
            begin = time.process_time()
            apply(self.model, self.tokenizer, [_request(record)], hyper)
            seconds += time.process_time() - begin
        return seconds, []

    def _alphaedit(self) -> tuple[float, list[list[int]]]:
        settings = self.settings
        main: Any = importlib.import_module(f"{self.editor.__name__}.AlphaEdit_main")
        main.CONTEXT_TEMPLATES_CACHE = [["{}"]]
        projections = []
        for moment in self._moments().values():
            vectors, sizes, _ = torch.linalg.svd(moment, full_matrices=False)
            free = vectors[:, sizes < settings["null_threshold"]]
            projections.append(free @ free.T)
        main.P, main.P_loaded = torch.stack(projections), True
        hyper = self.editor.AlphaEditHyperParams(
            layers=settings["layers"],
            layer_selection="all",
            mom2_adjustment=True,
            mom2_update_weight=0.0,
            nullspace_threshold=settings["null_threshold"],
            L2=settings["l2_weight"],
            P_loc=str(moments_file(self._folder)),  # a file that is there: it is not read
            **self._of_vectors("AlphaEdit"),
        )
        requests = [_request(record) for record in self.inputs.records]
        begin = time.process_time()
        self.editor.apply_AlphaEdit_to_model(self.model, self.tokenizer, requests, hyper)
        return time.process_time() - begin, []

    def _moments(self) -> dict[int, Tensor]:
        """Second moments of each layer, in ascending order."""
        from safetensors.torch import load_file

        found = {
            int(layer): moment for layer, moment in load_file(moments_file(self._folder)).items()
        }
        return dict(sorted(found.items()))

    def _memit(self) -> tuple[float, list[list[int]]]:
        settings, modules = self.settings, self.inputs.modules
        main: Any = importlib.import_module(f"{self.editor.__name__}.memit_main")
        main.CONTEXT_TEMPLATES_CACHE = [["{}"]]
        name = self.model.config._name_or_path.replace("/", "_")
        for layer, moment in self._moments().items():
            main.COV_CACHE[name, modules["down"].format(layer)] = moment
        hyper = self.editor.MEMITHyperParams(
            layers=settings["layers"],
            layer_selection="all",
            mom2_adjustment=True,
            mom2_update_weight=settings["cov_weight"],
            **self._of_vectors("MEMIT"),
        )
        if is_each_alone(self.case):
            return self._put_back(self.editor.apply_memit_to_model, hyper, 1)
        requests = [_request(record) for record in self.inputs.records]
        begin = time.process_time()
        self.editor.apply_memit_to_model(self.model, self.tokenizer, requests, hyper)
        return time.process_time() - begin, []

    def _wise(self) -> tuple[float, list[list[int]]]:
        settings = self.settings
        texts: Any = importlib.import_module(f"{self.editor.__name__}.utils")
        texts.get_context_templates(self.model, self.tokenizer, [[5, 5], [10, 5]], "cpu")
        layer = self.inputs.modules["down"].replace(".{}.", "[{}].").format(settings["edit_layer"])
        hyper = self.editor.WISEHyperParams(
            edit_lr=settings["edit_lr"],
            n_iter=settings["num_steps"],
            objective_optimization="only_label",
            mask_ratio=settings["mask_ratio"],
            alpha=settings["margin_far"],
            beta=settings["margin_edit"],
            gamma=settings["margin_gap"],
            act_ratio=settings["threshold_ratio"],
            merge_freq=1000,
            retrieve=False,
            replay=False,
            save_freq=500,
            merge_alg="ties",
            norm_constraint=settings["norm_bound"],
            inner_params=[f"{layer}.weight"],
            weights=1.0,
            densities=0.53,
            device="cpu",
            alg_name="WISE",
            model_name=_NAME,
        )
        hyper.sequential_edit = True  # else each edit forgets those before it
        seconds = 0.0
        for record in self.inputs.records:
            request = {**_request(record), "loc_prompt": record.unrelated}
            begin = time.process_time()
            self.editor.apply_wise_to_model(self.model, self.tokenizer, [request], hyper)
            seconds += time.process_time() - begin
        return seconds, []

    def _asked(self) -> tuple[float, list[list[int]]]:
        """One prompt after another, as its `compute_edit_quality` does."""
        hyper, answers = types.SimpleNamespace(max_length=40), list[list[int]]()
        begin = time.process_time()
        for probe in self.inputs.probes:
            answers += self.editor.test_prediction_acc(
                self.model, self.tokenizer, hyper, probe.prompt, probe.answer, "cpu", locality=True
            )
        return time.process_time() - begin, answers

    def _of_vectors(self, name: str) -> dict[str, Any]:
        """What ROME, MEMIT and their relatives ask for."""
        settings = self.settings
        return {
            "fact_token": "subject_last",
            "v_num_grad_steps": settings["v_num_steps"] + 1,
            "v_lr": settings["v_lr"],
            "v_loss_layer": self.inputs.num_layers - 1,
            "v_weight_decay": settings["v_weight_decay"],
            "clamp_norm_factor": settings["clamp"],
            "kl_factor": settings["kl_weight"],
            "rewrite_module_tmp": self.inputs.modules["down"],
            "mom2_dataset": "wikipedia",
            "mom2_n_samples": 0,
            "mom2_dtype": "float32",
            "stats_dir": str(self._folder),
            **self._common(name),
        }

    def _common(self, name: str) -> dict[str, Any]:
        """What these and FT ask for."""
        modules = self.inputs.modules
        return {
            "layer_module_tmp": modules["layer"],
            "mlp_module_tmp": modules["ffn"],
            "attn_module_tmp": "",
            "ln_f_module": modules["norm"],
            "lm_head_module": modules["head"],
            "device": "cpu",
            "alg_name": name,
            "model_name": _NAME,
        }

    @torch.no_grad()
    def _answer(self, probe: Probe) -> list[int]:
        self._before_answer(probe)
        logits: Tensor = self.model(input_ids=torch.tensor([probe.ids])).logits[0]
        found: list[int] = logits[probe.prompt_length - 1 : -1].argmax(-1).tolist()
        return found


def _request(record: Record) -> dict[str, Any]:
    return {"prompt": record.prompt, "target_new": record.target_new, "subject": record.subject}


def _part(checkout: Path, name: str) -> Any:
    """The package of one editor, or of evaluation, with none of the others'."""
    for package in ("", ".models", ".evaluate", ".trainer"):
        shell = types.ModuleType(f"easyeditor{package}")
        shell.__path__ = [str(checkout.joinpath("easyeditor", *package.split(".")[1:]))]
        sys.modules[shell.__name__] = shell
    return importlib.import_module(f"easyeditor.{name}")


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    torch.set_num_threads(1)
    case_, folder_, checkout_ = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    Side(case_, Inputs.read(folder_), folder_, checkout_).edited().write(folder_)
