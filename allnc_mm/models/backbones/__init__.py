from .resnet_cifar6n2 import ResNetCIFAR6n2

__all__ = ['ResNetCIFAR6n2']
