"""The whole recipe here and in PyTorch, on one machine: accuracy and wall time.

On a GPU, the default recipe of ResNet-18 (200 epochs, batch 1000), both in bfloat16,
PyTorch in channels_last and compiled:

    python -m benchmarks.full_recipe --dataset FOLDER --precision bf16 --compile

On the CPU, a tiny one shows that the script works:

    python -m benchmarks.full_recipe --dataset synthetic --arch resnet8 --epochs 2 \
        --batch-size 100 --limit-train 1000 --limit-test 500
"""

import argparse
import time

import jax
import torch

from eqcifar import data, models, training

from .peers import torch_recipe
from .records import store


def train_here(config, dataset):
    key = training.random_stream(config.seed, "model")
    model, state = models.create(config.arch, len(dataset.classes), key=key)
    start = training.initialise(model, state, config, len(dataset.train))
    began = time.perf_counter()
    _, rows = training.fit(start, dataset, config)
    return {
        "acc_te": rows[-1]["acc_te"],
        "loss": [row["loss"] for row in rows],
        "epoch_seconds": [row["seconds"] for row in rows],
        "wall_seconds": time.perf_counter() - began,
    }


def train_in_torch(config, dataset, compile_model):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    began = time.perf_counter()
    rows = list(
        torch_recipe.train(
            config,
            dataset,
            device=device,
            autocast=config.precision == "bf16",
            compile_model=compile_model,
        )
    )
    return {
        "acc_te": rows[-1]["acc_te"],
        "loss": [row["loss"] for row in rows],
        "epoch_seconds": [row["seconds"] for row in rows],
        "wall_seconds": time.perf_counter() - began,
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", required=True)
    parser.add_argument(
        "--arch", default="resnet18", choices=torch_recipe.ARCHITECTURES
    )
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=1000)
    parser.add_argument("--lr", type=float, default=0.8)
    parser.add_argument("--limit-train", type=int, default=0)
    parser.add_argument("--limit-test", type=int, default=0)
    parser.add_argument("--precision", default="f32", choices=("f32", "bf16"))
    parser.add_argument("--compile", action="store_true", help="torch.compile the peer")
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    dataset = data.load(
        args.dataset, limit_train=args.limit_train, limit_test=args.limit_test
    )
    runs = []
    # Alternating, so that a machine that slows down slows down both.
    for seed in range(args.seeds):
        config = training.TrainConfig(
            arch=args.arch,
            epochs=args.epochs,
            batch_size=args.batch_size,
            lr=args.lr,
            precision=args.precision,
            eval_every=args.epochs,
            seed=seed,
        )
        for name, train in (
            ("eqcifar", lambda config: train_here(config, dataset)),
            ("torch", lambda config: train_in_torch(config, dataset, args.compile)),
        ):
            result = train(config)
            runs.append({"trainer": name, "seed": seed, **result})
            print(
                f"{name:8} seed {seed}  test accuracy {result['acc_te']:.4f}  "
                f"{result['wall_seconds']:.1f} s"
            )
    store(
        f"full_recipe_{args.arch}_{args.precision}_{jax.default_backend()}",
        {
            "dataset": dataset.title,
            "images": len(dataset.train),
            "arguments": {k: v for k, v in vars(args).items() if k != "dataset"},
            "runs": runs,
        },
    )


if __name__ == "__main__":
    main()
