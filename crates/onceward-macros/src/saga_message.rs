//! `#[derive(SagaMessage)]`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Data, DeriveInput, Error, Result, Type};

pub(crate) fn implement(input: &DeriveInput) -> Result<TokenStream> {
    let refuse = |what| Err(Error::new(input.ident.span(), what));
    let Data::Struct(data) = &input.data else {
        return refuse("SagaMessage is derived for structs only");
    };
    let mut steps = data
        .fields
        .members()
        .zip(&data.fields)
        .filter(|(_, field)| is_step_ref(&field.ty));
    let (Some((step, _)), None) = (steps.next(), steps.next()) else {
        return refuse("a saga's message has exactly one field of type StepRef");
    };
    let name = &input.ident;
    let (generics, arguments, bounds) = input.generics.split_for_impl();
    Ok(quote! {
        impl #generics ::onceward_saga::SagaMessage for #name #arguments #bounds {
            fn step_ref(&self) -> &::onceward_saga::StepRef {
                &self.#step
            }
        }
    })
}

/// By its name, however it was imported; another type of that name does not compile.
fn is_step_ref(ty: &Type) -> bool {
    matches!(ty, Type::Path(path)
        if path.path.segments.last().is_some_and(|last| last.ident == "StepRef"))
}
