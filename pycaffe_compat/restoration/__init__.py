"""The paper's subject, on top of the engine: degrade photographs, measure, restore.

    degradation  luma as the paper's protocol defines it, JPEG at a quality, quantisation tables
    metrics      PSNR, PSNR-B, SSIM, IPSNR
    baselines    re-application of JPEG (spp), and the thresholding form of FFmpeg's filter
    sadct        pointwise shape-adaptive DCT
    patches      databases of (distorted, original) patches to train on
    restore      a trained network applied to whole images and to files
    evaluation   tables of scores of several networks over folders of images
    results      the networks of models/, the paper's numbers, and ours beside them
    cards, report, paper_figures    what is written and drawn of them

Svoboda, Hradis, Barina, Zemcik: Compression Artifacts Removal Using Convolutional Neural Networks, 2016.
"""
