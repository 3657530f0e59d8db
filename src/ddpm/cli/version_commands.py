"""The arguments of the commands about registered versions: serve, list, judge, promote and exchange them."""

from pathlib import Path

from ddpm.cli import approval, compare, exchange, gate, registry, serving, shadow, signing
from ddpm.cli.arguments import Commands, add_device, add_model, add_name, positive


def add_commands(commands: Commands) -> None:
    """Add the commands from serve to export-codec."""
    for run, summary, example in (
        (serving.serve, "serve images over HTTP, within the limits in params.yaml", "ddpm serve --port 5001"),
        (serving.page, "open a page in the browser that generates and changes images", "ddpm page"),
    ):
        served = add_model(commands.add(run, summary, example))
        served.add_argument("--host", default="127.0.0.1", help="address to listen on (default: only this machine)")
        served.add_argument(
            "--port", type=int, default=5001, help="port to listen on; 0: any free port (default: 5001)"
        )
        served.add_argument(
            "--allowed-host",
            action="append",
            default=[],
            metavar="NAME",
            help="a name of this server in browsers' addresses, besides localhost and IP addresses; can be repeated",
        )
        add_device(served)
        if run is serving.page:
            served.add_argument("--no-browser", action="store_true", help="only print the address of the page")
        else:
            served.add_argument(
                "--shadow",
                metavar="VERSION",
                help="draw the same requests with this version, too, which answers nobody",
            )

    beside = add_name(commands.add(shadow.shadow, "compare what a shadow and the served version drew", "ddpm shadow 4"))
    beside.add_argument("number", nargs="?", metavar="VERSION", help="number of the shadow (default: the newest)")

    add_name(commands.add(registry.versions, "list the registered versions, newest first", "ddpm versions"))

    add_name(commands.add(registry.history, "list the champions in time, newest first", "ddpm history"))

    asked = add_name(
        commands.add(
            gate.gate,
            "ask the gate about two models, and change nothing",
            "ddpm gate 4 3",
        )
    )
    asked.add_argument("candidate", help="number of a version, or a model file")
    asked.add_argument("champion", help="number of a version, or a model file")
    asked.add_argument("--images", type=positive, help="images of each at the first look (default: sample.images)")
    asked.add_argument("--max-images", type=positive, help="images of each at most (default: promote.max_images)")
    asked.add_argument("--seed", type=int, help="seed of the images of both (default: sample.seed)")
    add_device(asked)

    compared = add_name(
        commands.add(
            compare.compare,
            "put samples and metrics of two versions side by side",
            "ddpm compare 3 4 --seed 1",
        )
    )
    for dest in ("number_a", "number_b"):
        compared.add_argument(dest, metavar="VERSION", help="number of a version, as `ddpm versions` lists it")
    compared.add_argument("-n", "--number", type=positive, default=36, help="images of each version (default: 36)")
    compared.add_argument("--seed", type=int, help="seed of the images of both (default: random)")
    compared.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="a .png file; the text is written beside it as .md (default: compare-VERSION-VERSION.png)",
    )
    add_device(compared)

    promote = add_name(
        commands.add(
            registry.promote,
            "make a version the champion",
            'ddpm promote 4 --reason "looked at the samples, sharper"',
        )
    )
    promote.add_argument("number", metavar="VERSION", help="number of the version, as `ddpm versions` lists it")
    promote.add_argument("--reason", required=True, help="why; stored in the registry")
    promote.add_argument(
        "--skip-canary", action="store_true", help="do not serve the version for a test first; stored in the registry"
    )

    approval.add_commands(commands)

    rollback = add_name(
        commands.add(
            registry.rollback,
            "make the previous champion the champion again",
            'ddpm rollback --reason "blurred eights in production"',
        )
    )
    rollback.add_argument("--reason", default="no reason given", help="why; stored in the registry")

    signing.add_commands(commands)

    import_unet = commands.add(
        exchange.import_unet,
        "convert a UNet2DModel saved by diffusers into a model file",
        "ddpm import-unet ddpm-cifar10-32 --out models/cifar10.safetensors",
    )
    import_unet.add_argument("folder", type=Path, help="a saved pipeline, or a saved network with its config.json")
    import_unet.add_argument("--out", type=Path, required=True, metavar="FILE", help="a new .safetensors file")
    import_unet.add_argument(
        "--schedule",
        choices=("linear", "cosine"),
        help="noise schedule, if the folder has no scheduler_config.json (default: linear)",
    )
    import_unet.add_argument(
        "--target",
        choices=("eps", "v", "x_0"),
        help="what the network predicts, if the folder has no scheduler_config.json (default: eps)",
    )
    import_unet.add_argument(
        "--null-label", action="store_true", help='the last class means "no label", which guidance uses'
    )

    export_unet = add_model(
        commands.add(
            exchange.export_unet,
            "write a model as a folder that diffusers' DDPMPipeline reads",
            "ddpm export-unet --model models/model.safetensors --out exported",
        )
    )
    export_unet.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a new folder")
    export_unet.set_defaults(device="cpu")

    import_codec = commands.add(
        exchange.import_codec,
        "convert an AutoencoderKL of diffusers into a model file",
        "ddpm import-codec stable-diffusion/vae --size 64 --out models/their_autoencoder.safetensors",
    )
    import_codec.add_argument("folder", type=Path, help="a saved autoencoder, or a saved pipeline with vae/")
    import_codec.add_argument("--out", type=Path, required=True, metavar="FILE", help="a new .safetensors file")
    import_codec.add_argument(
        "--size",
        type=positive,
        metavar="PIXELS",
        help="height and width of your images (default: those in its config.json)",
    )

    export_codec = add_model(
        commands.add(
            exchange.export_codec,
            "write a model's autoencoder as a folder for AutoencoderKL",
            "ddpm export-codec --model models/model.safetensors --out exported",
        )
    )
    export_codec.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a new folder")
    export_codec.set_defaults(device="cpu")
