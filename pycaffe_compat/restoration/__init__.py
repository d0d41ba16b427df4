"""The paper's subject, on top of the engine: degrade photographs, measure, restore.

    degradation  luma as the paper's protocol defines it, JPEG at a quality, quantisation tables
    metrics      PSNR, PSNR-B, SSIM, IPSNR
    baselines    FFmpeg's spp filter
    patches      databases of (distorted, original) patches to train on
    restore      a trained network applied to whole images and to files
    evaluation   tables of scores of several networks over folders of images

Svoboda, Hradis, Barina, Zemcik: Compression Artifacts Removal Using Convolutional Neural Networks, 2016.
"""
