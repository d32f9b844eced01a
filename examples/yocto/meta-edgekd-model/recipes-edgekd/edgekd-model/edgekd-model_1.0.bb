SUMMARY = "A model that edgekd compressed, and what builds its TensorRT engine"
DESCRIPTION = "A build host has no GPU of the target: a systemd unit builds the engine on the first boot."
HOMEPAGE = "https://artifacts.example.com/edgekd"
SECTION = "libs"
# The teacher's licence decides on the model's: put in what is yours.
LICENSE = "CLOSED"

# edgekd bundle pack BUNDLE --out edgekd-model-1.0.tar; sha256sum edgekd-model-1.0.tar
SRC_URI = "https://artifacts.example.com/edgekd/${BP}.tar;subdir=${BP}"
SRC_URI[sha256sum] = "0000000000000000000000000000000000000000000000000000000000000000"

# UNPACKDIR where the release has it (wrynose), else WORKDIR (kirkstone, scarthgap).
S = "${@d.getVar('UNPACKDIR') or d.getVar('WORKDIR')}/${BP}"

COMPATIBLE_MACHINE = "(tegra)"

inherit systemd

SYSTEMD_SERVICE:${PN} = "edgekd-firstboot.service"

do_configure[noexec] = "1"
do_compile[noexec] = "1"

do_install() {
    # What was fetched is the archive that the digest names; this holds its files to the sums inside as well.
    (cd ${S} && sha256sum --quiet --strict -c SHA256SUMS)
    # Neither the student nor calibration images, which can reveal what the teacher was trained on.
    install -d ${D}${datadir}/edgekd/model/firstboot
    install -m 0644 ${S}/manifest.json ${S}/model-*.onnx ${S}/golden-* ${D}${datadir}/edgekd/model/
    install -m 0644 ${S}/firstboot/agent.pyz ${D}${datadir}/edgekd/model/firstboot/
    install -d ${D}${systemd_system_unitdir}
    install -m 0644 ${S}/firstboot/edgekd-firstboot.service ${D}${systemd_system_unitdir}/
}

FILES:${PN} += "${datadir}/edgekd"

# trtexec is prebuilt in kirkstone and scarthgap, and built in wrynose; all provide this name. Where a layer has
# python3-tensorrt, adding it lets the agent build without a program of its own for each step.
RDEPENDS:${PN} = "cuda-cudart python3-modules tensorrt-core tensorrt-trtexec"
