"""Training loops that are not ours: the same small training in each of them.

A loop trains from its beginning, or goes on from what an earlier one left in `folder`.  It returns
its EPIC, its net, and the places of the examples that this process trained on, epoch by epoch.
"""

import torch
from libraries import library
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

from subsel.defense import EPIC, KeptSampler, Rounds

N, C, EPOCHS, SEED, BATCH = 180, 2, 6, 5, 32


def make_data():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(N) % C
    return torch.randn(N, 4, generator=generator) + y[:, None], y


X, Y = make_data()


class Numbered(Dataset):
    """Examples that say which they are."""

    def __len__(self):
        return N

    def __getitem__(self, i):
        return {"x": X[i], "labels": Y[i], "place": i}


def make_net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, C))


def make_epic(n=N):
    return EPIC(n, subset_size=0.3, warmup=1, interval=2)


def sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.1)


def plain(folder, *, first=0, stop=EPOCHS, ranks=1, rank=0):
    """The loop of docs/training.md."""
    epic, net, trained = make_epic(), make_net(), []
    if first:
        saved = torch.load(folder / "plain.pt", weights_only=True)
        epic.load_state_dict(saved["epic"])
        net.load_state_dict(saved["net"])
    sampler = KeptSampler(epic, seed=SEED, num_replicas=ranks, rank=rank)
    loader = DataLoader(Numbered(), batch_size=BATCH // ranks, sampler=sampler)
    rounds, optimizer = Rounds(epic, (X, Y), epochs=EPOCHS), sgd(net)
    parallel = net if ranks == 1 else DistributedDataParallel(net)
    for epoch in range(first, stop):
        rounds.before(parallel, epoch)
        sampler.set_epoch(epoch)
        trained.append([])
        for batch in loader:
            optimizer.zero_grad()
            F.cross_entropy(parallel(batch["x"]), batch["labels"]).backward()
            optimizer.step()
            trained[-1] += batch["place"].tolist()
    if rank == 0:
        torch.save({"epic": epic.state_dict(), "net": net.state_dict()}, folder / "plain.pt")
    return epic, net, trained


def accelerated(folder, *, first=0, stop=EPOCHS, ranks=1, rank=0):
    """Accelerate's, which divides the examples by itself and saves what it was told of."""
    accelerator = library("accelerate").Accelerator(cpu=True)
    epic, net, trained = make_epic(), make_net(), []
    rounds = Rounds(epic, (X, Y), epochs=EPOCHS)
    loader = DataLoader(Numbered(), batch_size=BATCH // ranks, sampler=KeptSampler(epic, seed=SEED))
    accelerator.register_for_checkpointing(rounds)
    model, optimizer, loader = accelerator.prepare(net, sgd(net), loader)
    if first:
        accelerator.load_state(folder / "accelerate")
    for epoch in range(first, stop):
        rounds.before(model, epoch)
        loader.set_epoch(epoch)
        trained.append([])
        for batch in loader:
            optimizer.zero_grad()
            accelerator.backward(F.cross_entropy(model(batch["x"]), batch["labels"]))
            optimizer.step()
            trained[-1] += batch["place"].tolist()
    accelerator.save_state(folder / "accelerate")
    return epic, net, trained


def lightning(
    folder,
    *,
    first=0,
    stop=EPOCHS,
    ranks=1,
    rank=0,
    epic=None,
    workers=0,
    validate=False,
    use_sampler=True,
):
    """Lightning's Trainer."""
    L = library("lightning.pytorch")
    from subsel.defense.lightning import EPICCallback

    trained, validated = [], []
    epic = make_epic() if epic is None else epic

    class Module(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = make_net()

        def forward(self, x):
            return self.net(x)

        def on_train_epoch_start(self):
            trained.append([])

        def training_step(self, batch, _):
            trained[-1].extend(batch["place"].tolist())
            return F.cross_entropy(self(batch["x"]), batch["labels"])

        def validation_step(self, batch, _):
            validated.append(self.current_epoch)

        def configure_optimizers(self):
            return sgd(self)

    module = Module()
    saving = L.callbacks.ModelCheckpoint(
        folder, filename="{epoch}", save_top_k=-1, enable_version_counter=False
    )
    trainer = L.Trainer(
        max_epochs=stop,
        accelerator="cpu",
        devices=ranks,
        strategy="auto" if ranks == 1 else "ddp",
        callbacks=[EPICCallback(epic, (X, Y)), saving],
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    sampler = KeptSampler(epic, seed=SEED) if use_sampler else None
    trainer.fit(
        module,
        DataLoader(Numbered(), BATCH // ranks, sampler=sampler, num_workers=workers),
        DataLoader(Numbered(), N) if validate else None,
        ckpt_path=folder / f"epoch={first - 1}.ckpt" if first else None,
    )
    assert validated == list(range(first, stop)) * validate
    return epic, module.net, trained


def transformers(
    folder, *, first=0, stop=EPOCHS, ranks=1, rank=0, at_step=None, use_sampler=True, **options
):
    """Hugging Face's Trainer; `first` may be a number of steps as well, such as "20"."""
    hf = library("transformers")
    from transformers.modeling_outputs import SequenceClassifierOutput

    from subsel.defense.transformers import EPICCallback, EPICTrainer

    trained = []

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = make_net()

        def forward(self, x, labels=None, place=None):
            if self.training:
                trained[-1].extend(place.tolist())
            logits = self.net(x)
            loss = None if labels is None else F.cross_entropy(logits, labels)
            return SequenceClassifierOutput(loss=loss, logits=logits)

    class Watch(hf.TrainerCallback):
        def on_epoch_begin(self, *given, **_):
            trained.append([])

        def on_step_end(self, args, state, control, **_):
            control.should_training_stop = state.global_step == at_step
            control.should_save = control.should_save or control.should_training_stop

    model, epic = Model(), make_epic()
    optimizer = sgd(model)
    arguments = hf.TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=stop,
        per_device_train_batch_size=BATCH // ranks,
        max_grad_norm=0.0,
        seed=SEED,
        use_cpu=True,
        report_to="none",
        save_strategy="epoch",
        logging_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        **options,
    )
    given = {
        "args": arguments,
        "train_dataset": Numbered(),
        "optimizers": (optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)),
        "callbacks": [Watch()],
    }
    if use_sampler:
        trainer = EPICTrainer(model, epic=epic, **given)
    else:
        trainer = hf.Trainer(model, **given)
        trainer.add_callback(EPICCallback(epic, (X, Y), seed=SEED))
    steps = 6 * first if isinstance(first, int) else int(first)
    trainer.train(resume_from_checkpoint=str(folder / f"checkpoint-{steps}") if steps else None)
    epic.trainer = trainer
    return epic, model.net, trained


LOOPS = {loop.__name__: loop for loop in (plain, accelerated, lightning, transformers)}
