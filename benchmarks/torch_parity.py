"""The same recipe, data and initial weights, step by step, here and in PyTorch.

Float32, without augmentation, batches in the same order.

    python -m benchmarks.torch_parity --dataset FOLDER
"""

import argparse

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import torch

from eqcifar import data, models, training
from eqcifar.parallel import make_mesh
from eqcifar.training._recipe import make_recipe
from eqcifar.training._step import Epoch, epoch_order, make_steps

from .peers import torch_recipe
from .records import store


def losses_here(config, dataset, model, state, order, steps):
    take = make_steps(make_recipe(config, len(dataset.train)), make_mesh(1))
    start = training.initialise(model, state, config, len(dataset.train))
    images, labels = jnp.asarray(dataset.train.images), dataset.train.labels
    key = jax.random.key(config.seed)
    epoch = Epoch(images, jnp.asarray(labels), order, key, len(dataset.classes))
    totals = [0.0]
    for _ in range(steps):
        start = take(epoch, start, 1)
        totals.append(float(start.totals.loss))
    return np.diff(totals)


def losses_in_torch(config, dataset, weights, order, steps):
    peer = torch_recipe.ARCHITECTURES[config.arch]()
    with torch.no_grad():
        for parameter, weight in zip(peer.parameters(), weights, strict=True):
            parameter.copy_(torch.from_numpy(weight).reshape(parameter.shape))
    total = config.epochs * (len(dataset.train) // config.batch_size)
    recipe = torch_recipe.Recipe(peer, config, total)
    losses = []
    for i in range(steps):
        chosen = order[i * config.batch_size :][: config.batch_size]
        images = torch.from_numpy(dataset.train.images[chosen])
        labels = torch.from_numpy(dataset.train.labels[chosen]).long()
        targets = labels
        if config.loss == "mse":
            targets = torch.eye(len(dataset.classes))[labels]
        inputs = torch_recipe.normalise(images, config).contiguous()
        losses.append(float(recipe.step(inputs, targets)))
    return np.array(losses)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--arch", default="resnet8")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.2)
    parser.add_argument("--loss", default="ce")
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    config = training.TrainConfig(
        arch=args.arch,
        epochs=args.epochs,
        batch_size=args.batch_size,
        lr=args.lr,
        loss=args.loss,
        augment=False,
    )
    dataset = data.load(args.dataset)
    key = training.random_stream(config.seed, "model")
    model, state = models.create(config.arch, len(dataset.classes), key=key)
    leaves = jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))
    weights = [np.array(leaf) for leaf in leaves]
    order = epoch_order(jax.random.key(config.seed), 0, len(dataset.train))

    here = losses_here(config, dataset, model, state, order, args.steps)
    there = losses_in_torch(config, dataset, weights, np.array(order), args.steps)
    relative = np.abs(here - there) / there
    for i, row in enumerate(zip(here, there, relative, strict=True)):
        print(
            "step {:3d}  eqcifar {:.7f}  torch {:.7f}  relative {:.1e}".format(i, *row)
        )
    store(
        f"torch_parity_{config.arch}_{config.loss}",
        {
            "config": config.to_dict(),
            "images": len(dataset.train),
            "loss_eqcifar": here.tolist(),
            "loss_torch": there.tolist(),
            "largest_relative_difference": float(relative.max()),
        },
    )
    assert relative.max() < 1e-3


if __name__ == "__main__":
    main()
