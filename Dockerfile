# The README's two commands, to play and to test, in an image of this checkout:
#
#     docker build -t icrl-agents . && docker run -it icrl-agents
#     docker build -t icrl-agents-test --target test . && docker run icrl-agents-test
#
# --build-arg BASE=IMAGE builds on another image with Python 3.11 or newer, such as one with CUDA and its own PyTorch.
ARG BASE=python:3.11-slim

FROM ${BASE} AS installed
# A PyTorch that the image brings stays. Else it is the build for CPUs, several times smaller than PyPI's, which has CUDA
# (--build-arg TORCH_INDEX=), and as fast without a GPU; --build-arg TORCH_INDEX=URL takes that of another index.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python -c "import torch" 2>/dev/null || pip install ${TORCH_INDEX:+--index-url ${TORCH_INDEX}} torch==2.13.0
WORKDIR /icrl-agents
COPY . .
# constraints.txt, but for the PyTorch that is there
RUN python -c "import torch; print('torch==' + torch.__version__)" > torch.txt \
    && grep -v "^torch==" constraints.txt >> torch.txt && mv torch.txt constraints.txt

FROM installed AS test
RUN pip install -c constraints.txt ".[test]"
CMD ["pytest", "-n", "2", "--dist", "loadfile"]

FROM installed AS play
RUN pip install -c constraints.txt .
CMD ["icrl-agents", "play", "icrl/ad-darkroom"]
