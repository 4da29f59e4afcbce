#!/bin/bash
# Run VASP in the folder of a structure (the working folder): the relaxation, if there is INCAR.relax, then the single
# point. After unconverged electrons VASP runs again with INCAR.second. A repeated call keeps finished parts.
attempt() {
    @{command}
}

ended() { grep -qs 'General timing' "$1"; }

# Unconverged electrons in the last ionic step: VASP 6 prints a message, VASP 5 stops at NELM.
unconverged() {
    grep -qs 'EDIFF was not reached' OUTCAR && return
    local most=$(grep -m1 -o 'NELM *= *[0-9]*' OUTCAR | grep -o '[0-9]*$')
    [ -n "$most" ] && [ "$(grep -o 'Iteration *[0-9]*( *[0-9]*' OUTCAR | tail -1 | sed 's/.*(//')" -ge "$most" ]
}

if [ -n "$LABEL_COMMAND" ]; then
    attempt() { bash -c "$LABEL_COMMAND"; }
fi

if [ -f INCAR.relax ] && [ ! -f relax/done ]; then
    mkdir -p relax && cd relax || exit 1
    cp ../KPOINTS ../POTCAR . || exit 1
    [ -f POSCAR ] || cp ../POSCAR . || exit 1
    if ! ended OUTCAR.0; then
        # Single point of the unrelaxed structure, for comparison.
        cp ../INCAR INCAR && attempt || exit
        ended OUTCAR && mv vasprun.xml vasprun.xml.0 && mv OUTCAR OUTCAR.0 && rm -f CONTCAR || exit 1
    fi
    cp ../INCAR.relax INCAR || exit 1
    for run in $(seq 1 @{runs}); do
        ended OUTCAR.$run && continue
        # Last geometry of a killed run, if its CONTCAR is complete.
        [ "$(wc -l < CONTCAR 2> /dev/null || echo 0)" -lt "$(wc -l < POSCAR)" ] || cp CONTCAR POSCAR
        attempt || exit
        ended OUTCAR || exit 1
        unconverged && { echo "the electrons of the relaxation did not converge"; exit 1; }
        cp CONTCAR POSCAR || exit 1
        mv vasprun.xml vasprun.xml.$run && mv OUTCAR OUTCAR.$run || exit 1
        if grep -qs 'reached required accuracy' OUTCAR.$run && [ "$(grep -c 'TOTEN *=.*eV' OUTCAR.$run)" -gt 0 ]; then
            # Converged in few steps: the plane waves belong to the final cell.
            [ "$(grep -c 'in kB' OUTCAR.$run)" -le 5 ] && touch done && break
        fi
    done
    [ -f done ] || { echo "not relaxed after @{runs} runs"; exit 1; }
    cd .. || exit 1
    cp relax/POSCAR POSCAR || exit 1
fi

attempt
code=$?
if [ $code -eq 0 ] && [ -f INCAR.second ] && [ ! -f OUTCAR.first ] && ended OUTCAR && unconverged; then
    echo "the electrons did not converge: second attempt with INCAR.second"
    mv OUTCAR OUTCAR.first && mv vasprun.xml vasprun.xml.first && cp INCAR INCAR.first && cp INCAR.second INCAR || exit 1
    attempt
    code=$?
fi
exit $code
