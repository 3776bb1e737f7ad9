"""The networks of the export matrix: the whole catalog, and the smallest backbones of many families of timm.

Networks that accept images smaller than their default have a smaller size here, which saves time; the checks are the
same.
"""

from dataclasses import dataclass

from zoo.catalog import CATALOG


@dataclass(frozen=True)
class MatrixNetwork:
    """A network of the matrix.

    Attributes:
        name: Its name in the catalog or in timm.
        family: The family that it represents.
        size: Height and width of its images; None for the network's default.
    """

    name: str
    family: str
    size: int | None = None


BACKBONES = (
    MatrixNetwork("resnet18", "ResNet", 64),
    MatrixNetwork("resnetv2_18", "ResNet v2", 64),
    MatrixNetwork("resnetv2_50x1_bit", "BiT", 64),
    MatrixNetwork("resnet50_gn", "GroupNorm ResNet", 64),
    MatrixNetwork("resnext26ts", "ResNeXt", 64),
    MatrixNetwork("seresnet18", "SE-ResNet", 64),
    MatrixNetwork("ecaresnet26t", "ECA-ResNet", 64),
    MatrixNetwork("skresnet18", "SK-ResNet", 64),
    MatrixNetwork("resnest14d", "ResNeSt", 64),
    MatrixNetwork("res2net50_14w_8s", "Res2Net", 64),
    MatrixNetwork("tresnet_m", "TResNet", 64),
    MatrixNetwork("regnetx_002", "RegNet", 64),
    MatrixNetwork("regnety_002", "RegNet", 64),
    MatrixNetwork("vgg11", "VGG", 64),
    MatrixNetwork("densenet121", "DenseNet", 64),
    MatrixNetwork("inception_v3", "Inception", 96),
    MatrixNetwork("xception41", "Xception", 64),
    MatrixNetwork("dla46_c", "DLA", 64),
    MatrixNetwork("hrnet_w18_small", "HRNet", 64),
    MatrixNetwork("dpn48b", "DPN", 64),
    MatrixNetwork("selecsls42", "SelecSLS", 64),
    MatrixNetwork("ese_vovnet19b_slim_dw", "VoVNet", 64),
    MatrixNetwork("darknet17", "Darknet", 64),
    MatrixNetwork("eca_nfnet_l0", "NFNet", 64),
    MatrixNetwork("efficientnet_b0", "EfficientNet", 64),
    MatrixNetwork("tf_efficientnet_lite0", "EfficientNet", 64),
    MatrixNetwork("mobilenetv2_035", "MobileNet v2", 64),
    MatrixNetwork("mobilenetv3_small_050", "MobileNet v3", 64),
    MatrixNetwork("mobilenetv4_conv_small_035", "MobileNet v4", 64),
    MatrixNetwork("mixnet_s", "MixNet", 64),
    MatrixNetwork("ghostnet_050", "GhostNet", 64),
    MatrixNetwork("repvgg_a0", "RepVGG", 64),
    MatrixNetwork("mobileone_s0", "MobileOne", 64),
    MatrixNetwork("convnext_atto", "ConvNeXt", 64),
    MatrixNetwork("convnextv2_atto", "ConvNeXt v2", 64),
    MatrixNetwork("edgenext_xx_small", "EdgeNeXt", 64),
    MatrixNetwork("fastvit_t8", "FastViT", 64),
    MatrixNetwork("mobilevit_xxs", "MobileViT", 64),
    MatrixNetwork("poolformer_s12", "PoolFormer", 64),
    MatrixNetwork("efficientformer_l1", "EfficientFormer"),
    MatrixNetwork("levit_128s", "LeViT", 64),
    MatrixNetwork("vit_tiny_patch16_224", "ViT", 64),
    MatrixNetwork("deit_tiny_distilled_patch16_224", "DeiT", 64),
    MatrixNetwork("swin_tiny_patch4_window7_224", "Swin", 64),
    MatrixNetwork("cait_xxs24_224", "CaiT", 64),
    MatrixNetwork("pit_ti_224", "PiT", 64),
    MatrixNetwork("coat_lite_tiny", "CoaT", 64),
    MatrixNetwork("xcit_nano_12_p16_224", "XCiT", 64),
    MatrixNetwork("mixer_s32_224", "MLP-Mixer", 64),
    MatrixNetwork("test_maxvit", "MaxViT"),
)
NETWORKS = (*(MatrixNetwork(name, "catalog") for name in CATALOG), *BACKBONES)
