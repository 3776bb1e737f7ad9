"""The networks of the export matrix: the whole catalog, and the smallest backbones of many families of timm.

Networks that accept images smaller than their default have a smaller size here, which saves time; the checks are the
same.
"""

from dataclasses import dataclass

from zoo.catalog import CATALOG


@dataclass(frozen=True)
class Net:
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
    Net("resnet18", "ResNet", 64),
    Net("resnetv2_18", "ResNet v2", 64),
    Net("resnetv2_50x1_bit", "BiT", 64),
    Net("resnet50_gn", "GroupNorm ResNet", 64),
    Net("resnext26ts", "ResNeXt", 64),
    Net("seresnet18", "SE-ResNet", 64),
    Net("ecaresnet26t", "ECA-ResNet", 64),
    Net("skresnet18", "SK-ResNet", 64),
    Net("resnest14d", "ResNeSt", 64),
    Net("res2net50_14w_8s", "Res2Net", 64),
    Net("tresnet_m", "TResNet", 64),
    Net("regnetx_002", "RegNet", 64),
    Net("regnety_002", "RegNet", 64),
    Net("vgg11", "VGG", 64),
    Net("densenet121", "DenseNet", 64),
    Net("inception_v3", "Inception", 96),
    Net("xception41", "Xception", 64),
    Net("dla46_c", "DLA", 64),
    Net("hrnet_w18_small", "HRNet", 64),
    Net("dpn48b", "DPN", 64),
    Net("selecsls42", "SelecSLS", 64),
    Net("ese_vovnet19b_slim_dw", "VoVNet", 64),
    Net("darknet17", "Darknet", 64),
    Net("eca_nfnet_l0", "NFNet", 64),
    Net("efficientnet_b0", "EfficientNet", 64),
    Net("tf_efficientnet_lite0", "EfficientNet", 64),
    Net("mobilenetv2_035", "MobileNet v2", 64),
    Net("mobilenetv3_small_050", "MobileNet v3", 64),
    Net("mobilenetv4_conv_small_035", "MobileNet v4", 64),
    Net("mixnet_s", "MixNet", 64),
    Net("ghostnet_050", "GhostNet", 64),
    Net("repvgg_a0", "RepVGG", 64),
    Net("mobileone_s0", "MobileOne", 64),
    Net("convnext_atto", "ConvNeXt", 64),
    Net("convnextv2_atto", "ConvNeXt v2", 64),
    Net("edgenext_xx_small", "EdgeNeXt", 64),
    Net("fastvit_t8", "FastViT", 64),
    Net("mobilevit_xxs", "MobileViT", 64),
    Net("poolformer_s12", "PoolFormer", 64),
    Net("efficientformer_l1", "EfficientFormer"),
    Net("levit_128s", "LeViT", 64),
    Net("vit_tiny_patch16_224", "ViT", 64),
    Net("deit_tiny_distilled_patch16_224", "DeiT", 64),
    Net("swin_tiny_patch4_window7_224", "Swin", 64),
    Net("cait_xxs24_224", "CaiT", 64),
    Net("pit_ti_224", "PiT", 64),
    Net("coat_lite_tiny", "CoaT", 64),
    Net("xcit_nano_12_p16_224", "XCiT", 64),
    Net("mixer_s32_224", "MLP-Mixer", 64),
    Net("test_maxvit", "MaxViT"),
)
NETS = (*(Net(name, "catalog") for name in CATALOG), *BACKBONES)
