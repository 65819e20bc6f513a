#!/bin/sh
# State of a Job in the words that Snakemake expects.
case "$(kubectl get job "$1" -o 'jsonpath={.status.conditions[?(@.status=="True")].type}')" in
*Complete*) echo success ;;
*Failed*) echo failed ;;
*) echo running ;;
esac
