#!/bin/sh
# Make the testbeds: sh benchmarks/testbeds/make.sh [DATA] [TESTBED ...]; `make testbeds` does it into data/.
# A set that is there already is left as it is. Debian packages:
#   openclipart-png tuxpaint-stamps-default mate-backgrounds plasma-workspace-wallpapers gnome-backgrounds
#   lomiri-wallpapers-20.04 opencv-doc gcompris-qt-data
# trees fetches 20 MB from PyPI, unless deepforest is installed.
# NAME-control has thousands of labelled scenes of all training objects, and the same val.json and test.json as NAME.
set -eu
DATA=${1:-data}
[ $# -gt 0 ] && shift
HERE=$(dirname "$0")
PYTHON=${PYTHON:-python}
WORKERS=${WORKERS:-2}

missing() { [ ! -f "$DATA/$1/train.json" ]; }

compose() {  # OUT SETTING...
    out=$DATA/$1
    shift
    $PYTHON -m mcl data compose "$@" --backgrounds "$DATA/backgrounds" --out "$out" --workers "$WORKERS" \
        --test_fraction 0.2 --test_scenes 400 --val_fraction 0.1 --val_scenes 200 \
        --min_objects 1 --max_objects 2 --min_size 0.4 --max_size 0.9 --min_visible 0.8 --overhang 0.05
}

stamps() {  # OUT SETTING...
    out=$1
    shift
    compose "$out" --cutouts /usr/share/tuxpaint/stamps --class_map "$HERE/stamps.yaml" "$@"
}

clipart() {  # OUT SETTING...
    out=$1
    shift
    compose "$out" --cutouts /usr/share/openclipart/png --class_map "$HERE/clipart.yaml" --exclude other "$@"
}

CONTROL="--unlabeled_objects 0 --unlabeled_scenes 0 --train_scenes 4000"
[ $# -gt 0 ] || set -- stamps clipart trees
[ -d "$DATA/backgrounds" ] || $PYTHON "$HERE/backgrounds.py" "$DATA/backgrounds"
for testbed in "$@"; do
    case $testbed in
    stamps)
        if missing stamps; then
            stamps stamps --labelled_fraction 0.5 --train_scenes 1000 \
                --unlabeled_objects 4000 --unlabeled_scenes 4000
        fi
        if missing stamps-control; then stamps stamps-control $CONTROL; fi
        ;;
    clipart)
        if missing clipart; then
            clipart clipart --labelled_fraction 0.5 --unlabeled_classes other --train_scenes 1000 \
                --unlabeled_once true --unlabeled_objects 10000 --unlabeled_scenes 0
        fi
        if missing clipart-control; then clipart clipart-control $CONTROL; fi
        ;;
    trees)
        if missing trees; then $PYTHON -m mcl data trees --val_fraction 0.15 --out "$DATA/trees"; fi
        if missing trees-control; then
            $PYTHON -m mcl data trees --val_fraction 0.15 --stride 32 --out "$DATA/trees-control"
        fi
        ;;
    *)
        echo "no testbed '$testbed'; there are: stamps, clipart, trees" >&2
        exit 2
        ;;
    esac
done
